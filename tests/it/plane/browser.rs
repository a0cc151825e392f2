//! A real browser: Chromium, by W3C WebDriver. A client library would bring twenty crates for these few calls.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::bed::until;

/// The protocol's key for an element reference.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(super) struct Browser {
    http: reqwest::Client,
    session: String,
    driver: Child,
}

/// A failing test leaves no browser behind: its processes are in the driver's process group.
impl Drop for Browser {
    fn drop(&mut self) {
        let id = self.driver.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            let group = nix::unistd::Pid::from_raw(id);
            // Already gone is fine.
            match nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

impl Browser {
    /// A desktop window.
    pub(super) async fn new() -> Self {
        Self::with(json!({"args": ["--window-size=1200,900"]})).await
    }

    /// A phone in dark mode. No desktop window can be that narrow.
    pub(super) async fn phone() -> Self {
        let screen = json!({"width": 360, "height": 780, "pixelRatio": 2.0, "touch": true});
        Self::with(json!({
            "args": ["--force-dark-mode"],
            "mobileEmulation": {"deviceMetrics": screen},
        }))
        .await
    }

    async fn with(mut options: Value) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .expect("chromedriver: Debian has it in chromium-driver");
        let mut lines = BufReader::new(driver.stdout.take().expect("stdout")).lines();
        let port = loop {
            let line = lines.next_line().await.expect("read").expect("its port");
            if let Some((_, rest)) = line.split_once("started successfully on port ") {
                break rest.trim_end_matches('.').to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .expect("client");
        // Tests run as root, and in containers.
        let always = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
        ];
        let args = options["args"].as_array_mut().expect("args");
        args.extend(always.map(Value::from));
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            // The plane's authority is its own.
            "acceptInsecureCerts": true,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let base = format!("http://127.0.0.1:{port}/session");
        let answer = http.post(&base).json(&wanted).send().await.expect("answer");
        let said: Value = answer.json().await.expect("json");
        let id = said["value"]["sessionId"].as_str();
        let id = id.unwrap_or_else(|| panic!("no browser: {said}"));
        Self {
            session: format!("{base}/{id}"),
            http,
            driver,
        }
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value, String> {
        let url = format!("{}/{path}", self.session);
        let answer = self.http.post(url).json(&body).send().await;
        let said: Value = answer.expect("answer").json().await.expect("json");
        match said["value"]["error"].as_str() {
            Some(why) => Err(format!("{why}: {}", said["value"]["message"])),
            None => Ok(said["value"].clone()),
        }
    }

    pub(super) async fn open(&self, url: &str) {
        let opened = self.post("url", json!({"url": url})).await;
        opened.unwrap_or_else(|why| panic!("{url}: {why}"));
    }

    /// Runs a function body in the page; returns its result.
    pub(super) async fn run(&self, script: &str) -> Value {
        let done = self.post("execute/sync", json!({"script": script, "args": []}));
        done.await.unwrap_or_else(|why| panic!("{script}: {why}"))
    }

    /// The same for one that answers later, by `done(…)`.
    pub(super) async fn run_later(&self, script: &str) -> Value {
        let script = format!("const done = arguments[arguments.length - 1]; {script}");
        let done = self.post("execute/async", json!({"script": script, "args": []}));
        done.await.unwrap_or_else(|why| panic!("{script}: {why}"))
    }

    /// All visible text.
    pub(super) async fn text(&self) -> String {
        let text = self.run("return document.body.innerText").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until this text is visible.
    pub(super) async fn sees(&self, words: &str) {
        let seen = until(|| async { self.text().await.contains(words).then_some(()) });
        if tokio::time::timeout(Duration::from_secs(25), seen)
            .await
            .is_err()
        {
            panic!("{words:?} is not on the page:\n{}", self.text().await);
        }
    }

    /// The element of this XPath, once it exists.
    async fn find(&self, path: &str) -> String {
        let wanted = json!({"using": "xpath", "value": path});
        let found = until(|| async {
            let found = self.post("element", wanted.clone()).await.ok()?;
            Some(found[ELEMENT].as_str()?.to_owned())
        });
        match tokio::time::timeout(Duration::from_secs(25), found).await {
            Ok(id) => id,
            Err(_) => panic!("no {path} on the page:\n{}", self.text().await),
        }
    }

    /// Clicks like a person: where it is, if nothing covers it. The page may redraw itself meanwhile.
    pub(super) async fn click(&self, path: &str) {
        let mut why = String::new();
        for _ in 0..20 {
            let id = self.find(path).await;
            match self.post(&format!("element/{id}/click"), json!({})).await {
                Ok(_) => return,
                Err(e) => why = e,
            }
        }
        panic!("{path} cannot be clicked: {why}");
    }

    /// Clicks the button or link of this name, once it can be pressed: a click on one that is off does nothing and
    /// says nothing, and output is on the page before its command has ended.
    pub(super) async fn press(&self, name: &str) {
        let is_on = "not(@disabled) and not(@aria-disabled='true')";
        self.click(&format!(
            "//*[self::button or self::a or self::summary][normalize-space()='{name}'][{is_on}]"
        ))
        .await;
    }

    /// Types into the field of this label.
    pub(super) async fn fill(&self, label: &str, text: &str) {
        let of = format!("//label[normalize-space()='{label}']/@for");
        let path = format!("//*[self::input or self::textarea][@id={of}]");
        self.fill_at(&path, text).await;
    }

    /// Types into the field of this XPath.
    pub(super) async fn fill_at(&self, path: &str, text: &str) {
        let id = self.find(path).await;
        let cleared = self.post(&format!("element/{id}/clear"), json!({})).await;
        cleared.unwrap_or_else(|why| panic!("{path}: {why}"));
        let typed = self
            .post(&format!("element/{id}/value"), json!({"text": text}))
            .await;
        typed.unwrap_or_else(|why| panic!("{path}: {why}"));
    }

    /// Chooses an option of an element.
    pub(super) async fn choose(&self, path: &str, choice: &str) {
        self.click(&format!("{path}/option[normalize-space()='{choice}']"))
            .await;
    }

    /// Errors on the browser's console.
    pub(super) async fn complaints(&self) -> Vec<String> {
        let said = self
            .post("se/log", json!({"type": "browser"}))
            .await
            .expect("log");
        let lines = said.as_array().cloned().unwrap_or_default();
        let bad = lines.iter().filter(|l| l["level"] == "SEVERE");
        bad.map(|l| l["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// A screenshot, kept where `PF9_SHOTS` says, for people.
    pub(super) async fn picture(&self, name: &str) {
        let Some(dir) = std::env::var_os("PF9_SHOTS") else {
            return;
        };
        let answer = self
            .http
            .get(format!("{}/screenshot", self.session))
            .send()
            .await;
        let said: Value = answer.expect("answer").json().await.expect("json");
        let text = said["value"].as_str().expect("picture");
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .expect("base64");
        let path = std::path::Path::new(&dir).join(format!("{name}.png"));
        std::fs::write(path, bytes).expect("write");
    }

    /// Ends it cleanly: otherwise its processes remain.
    pub(super) async fn close(mut self) {
        let done = self.http.delete(&self.session).send().await;
        assert!(
            done.is_ok_and(|d| d.status().is_success()),
            "it does not end"
        );
        self.driver.kill().await.expect("killed");
    }
}
