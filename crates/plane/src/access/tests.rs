//! The decision on its own.

use proptest::prelude::*;

use super::*;

fn domain(n: u8) -> DomainId {
    DomainId::of(&format!("d{n}")).expect("id")
}

fn project(n: u8) -> ProjectId {
    ProjectId::of(&format!("p{n}")).expect("id")
}

fn user(n: u8) -> UserId {
    UserId::of(&format!("u{n}")).expect("id")
}

fn role() -> impl Strategy<Value = Option<Role>> {
    prop_oneof![
        Just(None),
        Just(Some(Role::Reader)),
        Just(Some(Role::Member)),
        Just(Some(Role::Admin)),
    ]
}

prop_compose! {
    fn rights()(
        who in 0u8..3,
        plane in role(),
        in_domain in role(),
        d in 0u8..3,
        in_project in role(),
        p in 0u8..3,
        kubernetes_only in any::<bool>(),
    ) -> Rights {
        Rights {
            user: user(who),
            plane,
            domain: in_domain.map(|r| (domain(d), r)),
            project: in_project.map(|r| (project(p), r)),
            kubernetes_only,
        }
    }
}

fn owner() -> impl Strategy<Value = Owner> {
    (0u8..6, 0u8..3, 0u8..3, any::<bool>()).prop_map(|(kind, a, b, exalted)| match kind {
        0 => Owner::Plane,
        1 => Owner::Domain(domain(a)),
        2 => Owner::Project(project(a), domain(b)),
        3 => Owner::User {
            id: user(a),
            domain: domain(b),
            exalted,
        },
        4 => Owner::Group {
            domain: domain(b),
            exalted,
        },
        _ => Owner::Somewhere,
    })
}

fn action() -> impl Strategy<Value = Action> {
    (0..Action::ALL.len()).prop_map(|i| Action::ALL[i])
}

proptest! {
    /// Things of a project or domain where the caller has no role can be neither changed nor seen.
    #[test]
    fn without_a_role_nearby_a_thing_is_hidden(
        rights in rights(),
        owner in owner(),
        action in action(),
    ) {
        let (near, own) = match &owner {
            Owner::Plane | Owner::Somewhere => return Ok(()),
            Owner::Domain(d) | Owner::Group { domain: d, .. } => (rights.in_domain(d), false),
            Owner::Project(p, d) => (rights.in_domain(d).max(rights.in_project(p)), false),
            Owner::User { id, domain: d, .. } => (rights.in_domain(d), *id == rights.user),
        };
        if rights.plane.is_none() && near.is_none() && !own && action.realm() != Realm::Anybody {
            let verdict = authorize(action, &rights, &owner);
            // A kubeconfig's token learns that it is one, and nothing about the thing.
            prop_assert!(verdict == Verdict::Hidden || rights.kubernetes_only);
            prop_assert_ne!(verdict, Verdict::Allowed);
        }
    }

    /// A greater role never allows less.
    #[test]
    fn a_greater_role_includes_every_lesser_one(
        rights in rights(),
        owner in owner(),
        action in action(),
    ) {
        let greater = |role: Option<Role>| role.map(|_| Role::Admin);
        let more = Rights {
            plane: greater(rights.plane),
            domain: rights.domain.clone().map(|(d, _)| (d, Role::Admin)),
            project: rights.project.clone().map(|(p, _)| (p, Role::Admin)),
            ..rights.clone()
        };
        if authorize(action, &rights, &owner) == Verdict::Allowed {
            prop_assert_eq!(authorize(action, &more, &owner), Verdict::Allowed);
        }
    }

    /// A role in a domain or project gives no power over a user with a plane-wide role, nor over the plane's own
    /// things.
    #[test]
    fn a_lesser_role_gives_no_power_over_a_greater_one(
        rights in rights(),
        owner in owner(),
        action in action(),
    ) {
        let rights = Rights { plane: None, user: user(9), ..rights };
        let is_above = matches!(
            owner,
            Owner::Plane | Owner::User { exalted: true, .. } | Owner::Group { exalted: true, .. }
        );
        if is_above && action.least() > Role::Reader {
            prop_assert_ne!(authorize(action, &rights, &owner), Verdict::Allowed);
        }
    }

    /// A kubeconfig's token is for Kubernetes only.
    #[test]
    fn a_kubeconfigs_token_is_for_its_cluster_only(
        rights in rights(),
        owner in owner(),
        action in action(),
    ) {
        let rights = Rights { kubernetes_only: true, ..rights };
        if authorize(action, &rights, &owner) == Verdict::Allowed {
            prop_assert!(matches!(action, Action::UseKubernetes | Action::SeeNumbers));
        }
    }
}

#[test]
fn a_project_role_covers_only_its_hosts_and_clusters() {
    let rights = |role| Rights {
        user: user(0),
        plane: None,
        domain: None,
        project: Some((project(0), role)),
        kubernetes_only: false,
    };
    let own = Owner::Project(project(0), domain(0));
    let foreign = Owner::Project(project(1), domain(0));
    for (action, role, verdict) in [
        (Action::SeeHosts, Role::Reader, Verdict::Allowed),
        (Action::OperateHosts, Role::Reader, Verdict::Refused),
        (Action::OperateHosts, Role::Member, Verdict::Allowed),
        (Action::DeleteClusters, Role::Member, Verdict::Refused),
        (Action::DeleteClusters, Role::Admin, Verdict::Allowed),
        (Action::Grant, Role::Admin, Verdict::Refused),
        (Action::ChangeFleet, Role::Admin, Verdict::Refused),
        // Machine logs and the audit are for those responsible for the project.
        (Action::ReadBundles, Role::Reader, Verdict::Refused),
        (Action::ReadBundles, Role::Member, Verdict::Refused),
        (Action::ReadBundles, Role::Admin, Verdict::Allowed),
        // Secrets are in their URLs.
        (Action::KeepReceivers, Role::Reader, Verdict::Refused),
        (Action::KeepReceivers, Role::Member, Verdict::Refused),
        (Action::KeepReceivers, Role::Admin, Verdict::Allowed),
        (Action::SeeAudit, Role::Reader, Verdict::Refused),
        (Action::SeeAudit, Role::Member, Verdict::Refused),
        (Action::SeeAudit, Role::Admin, Verdict::Allowed),
    ] {
        assert_eq!(
            authorize(action, &rights(role), &own),
            verdict,
            "{action:?}"
        );
        let seen = authorize(action, &rights(role), &foreign);
        assert_eq!(seen, Verdict::Hidden, "{action:?}");
    }
}
