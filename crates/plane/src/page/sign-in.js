import * as api from "./api.js";
import { field, h } from "./dom.js";

export function signIn(done) {
  const name = h("input", { autocomplete: "username", required: true });
  const password = h("input", { type: "password", autocomplete: "current-password", required: true });
  const project = h("input", { value: "service", required: true });
  const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
  const button = h("button", { class: "main", type: "submit" }, "Sign in");
  return h("form", { class: "sign-in", onsubmit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await api.signIn(name.value.trim(), password.value, project.value.trim());
      done();
    } catch (error) {
      wrong.textContent = error.message;
      wrong.hidden = false;
    } finally {
      button.disabled = false;
    }
  } }, h("h1", null, "Sign in"), field("User", name), field("Password", password), field("Project", project), wrong,
  h("p", null, button));
}
