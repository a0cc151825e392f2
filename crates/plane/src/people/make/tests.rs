//! An upgraded store keeps its content.

use super::*;
use crate::access::Role;
use crate::compute::tests::{cluster, host_row};
use crate::guard;
use crate::people::find;
use crate::records::{CLUSTERS, HOSTS, TOKENS, tables};
use crate::secrets;
use crate::store::Store;

fn without_project(row: impl serde::Serialize) -> Value {
    let mut row = serde_json::to_value(row).expect("json");
    row.as_object_mut().expect("a row").remove("project");
    row
}

/// Rows as the previous version wrote them, one of each; then the upgrade.
fn stepped(dir: &std::path::Path) -> Store {
    let store = Store::open(&dir.join("s"), &tables()).expect("store");
    let ends = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let login =
        |scope: Value| json!({"scope": scope, "created_at": Timestamp::now(), "expires_at": ends});
    let (host, cluster) = (host_row(1, None), cluster());
    let done: Result<(), StoreError> = store.write(|w| {
        let admin =
            json!({"name": ADMIN, "password": PasswordHash::cheap("right"), "project": "0123"});
        w.put(&USERS_THEN, ADMIN_ROW, &admin)?;
        w.put(
            &OWNED_THEN[0],
            &host.id.to_string(),
            &without_project(&host),
        )?;
        w.put(
            &OWNED_THEN[1],
            &cluster.id.to_string(),
            &without_project(&cluster),
        )?;
        let token = json!({"created_at": ends, "expires_at": ends, "used": null});
        w.put(&OWNED_THEN[2], "t", &token)?;
        w.put(
            &LOGINS_THEN,
            &secrets::kept("everything"),
            &login(json!("Everything")),
        )?;
        let kubeconfig = login(json!({"Cluster": cluster.id}));
        w.put(&LOGINS_THEN, &secrets::kept("kubeconfig"), &kubeconfig)?;
        from_one(w)
    });
    done.expect("stepped");
    store
}

#[test]
fn an_upgraded_store_keeps_its_content_in_the_first_project() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = stepped(dir.path());
    let rows = store.read().expect("read");
    let project = ProjectId::of("0123").expect("id");
    let admin = find::user(&rows, ADMIN_ROW).expect("admin");
    assert!(admin.password.is_some_and(|kept| kept.matches("right")));
    assert_eq!(find::project(&rows, "0123").expect("project").name, PROJECT);
    for (_, host) in rows.all(&HOSTS).expect("hosts") {
        assert_eq!(host.project, project);
    }
    for (_, cluster) in rows.all(&CLUSTERS).expect("clusters") {
        assert_eq!(cluster.project, project);
    }
    assert_eq!(
        rows.get(&TOKENS, "t").expect("token").expect("row").project,
        project
    );
    let who = guard::who(&rows, "everything").expect("the token is good");
    assert_eq!(who.rights.plane, Some(Role::Admin));
    assert_eq!(who.rights.project, Some((project.clone(), Role::Admin)));
    let who = guard::who(&rows, "kubeconfig").expect("the kubeconfig is good");
    assert!(who.rights.kubernetes_only);
    assert_eq!(who.rights.project, Some((project, Role::Admin)));
    assert_eq!(
        crate::logins::of_user(&rows, &who.user.id)
            .expect("the administrator's")
            .len(),
        2
    );
}
