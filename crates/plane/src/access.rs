//! Who may do what: one table and one pure function that decides.
//!
//! A token has a role (`admin`, `member` or `reader`, each includes those after it) in one project, in one domain, or
//! in the whole plane. Everything a caller can ask for is an [`Action`], and everything an action applies to has an
//! [`Owner`]. [`authorize`] is the only place where the three meet; `guard` calls it for every route, with the owners
//! of everything the path names.
//!
//! What a caller may not even see is [`Verdict::Hidden`]: the answer is "not found".

use super::people::{DomainId, ProjectId, UserId};

/// A role known to the plane; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Reader,
    Member,
    Admin,
}

/// Where a role must be held for an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Realm {
    /// The role in the project that the thing belongs to.
    Fleet,
    /// The role in the domain that the thing belongs to; a role in a project is enough to see that project.
    Directory,
    /// The role in the whole plane.
    Plane,
    /// Any caller with a valid token.
    Anybody,
}

macro_rules! actions {
    ($( $realm:ident { $( $id:ident = $word:literal, $least:ident $(or $own:ident)?, $says:literal; )* } )*) => {
        /// Everything a caller can ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Action { $($( #[doc = $says] $id, )*)* }

        impl Action {
            /// Every row of the table.
            #[cfg(test)]
            pub(super) const ALL: &'static [Self] = &[ $($( Self::$id, )*)* ];
            /// The row of this name.
            pub(super) fn named(word: &str) -> Option<Self> {
                match word { $($( $word => Some(Self::$id), )*)* _ => None }
            }
            /// Its name in the table.
            pub(super) fn word(self) -> &'static str {
                match self { $($( Self::$id => $word, )*)* }
            }
            /// Description for people.
            pub(super) fn says(self) -> &'static str {
                match self { $($( Self::$id => $says, )*)* }
            }
            /// The least role that is allowed it.
            pub(super) fn least(self) -> Role {
                match self { $($( Self::$id => Role::$least, )*)* }
            }
            /// Where that role must be held.
            pub(super) fn realm(self) -> Realm {
                match self { $($( Self::$id => Realm::$realm, )*)* }
            }
            /// Whether every user may do it with what is their own.
            pub(super) fn is_for_own(self) -> bool {
                match self { $($( Self::$id => actions!(@own $($own)?), )*)* }
            }
        }
    };
    (@own) => { false };
    (@own Own) => { true };
}

actions! {
    Fleet {
        SeeHosts = "see-hosts", Reader, "hosts, their state, events and operations";
        OperateHosts = "operate-hosts", Member, "operations and maintenance of a host; authorise it, revoke that";
        ReadBundles = "read-bundles", Admin, "support bundles and logs of a host: order, read, remove";
        RemoveHosts = "remove-hosts", Admin, "remove a host";
        LetHostsIn = "let-hosts-in", Member, "join tokens: make, list, withdraw";
        SeeClusters = "see-clusters", Reader, "clusters, their nodes, etcd, upgrades";
        MakeClusters = "make-clusters", Member, "make a cluster";
        ChangeClusters = "change-clusters", Member, "attach, detach, settings, upgrades of stack and distribution";
        DeleteClusters = "delete-clusters", Admin, "delete a cluster";
        RestoreClusters = "restore-clusters", Admin, "restore a cluster from a backup";
        Insist = "insist", Admin, "anything that costs etcd its quorum (force)";
        UseKubernetes = "use-kubernetes", Reader, "the Kubernetes API, with the rights of the role there";
        FetchKubeconfigs = "fetch-kubeconfigs", Reader, "kubeconfigs and their short-lived tokens; withdraw one's own long-lived kubeconfigs";
        KeepKubeconfigs = "keep-kubeconfigs", Member, "make a long-lived kubeconfig";
        SeeAllKubeconfigs = "see-all-kubeconfigs", Admin, "long-lived kubeconfigs of others: list, withdraw";
        SeeAlerts = "see-alerts", Reader, "alerts and silences; fleet-wide ones only with a plane-wide role";
        AnswerAlerts = "answer-alerts", Member, "acknowledge and silence alerts";
        KeepReceivers = "keep-receivers", Admin, "receivers of a project's alerts: see, set, remove";
        SeeNumbers = "see-numbers", Reader, "metrics of hosts, for Prometheus";
        SeeAudit = "see-audit", Admin, "the audit; of all projects only with a plane-wide role";
    }
    Plane {
        SeeFleet = "see-fleet", Reader, "versions of the agent, rollouts to the fleet, the plane's store";
        ChangeFleet = "change-fleet", Admin, "roll the fleet to another version of the agent; its policy";
        ChangeDomains = "change-domains", Admin, "make, change, delete domains";
        ChangeRoles = "change-roles", Admin, "make, change, delete roles that mean something elsewhere";
        GrantPlane = "grant-plane", Admin, "give and take plane-wide roles";
        SeeGrants = "see-grants", Reader, "who has plane-wide roles";
    }
    Directory {
        SeeDomains = "see-domains", Reader, "domains";
        SeeProjects = "see-projects", Reader, "projects";
        ChangeProjects = "change-projects", Admin, "make, change, delete projects";
        SeeUsers = "see-users", Reader or Own, "users";
        ChangeUsers = "change-users", Admin, "make, change, delete users; set a password";
        SeeGroups = "see-groups", Reader, "groups and who is in them";
        ChangeGroups = "change-groups", Admin, "make, change, delete groups, and who is in them";
        SeeAssignments = "see-assignments", Reader or Own, "who has which role";
        Grant = "grant", Admin, "give and take roles";
        ChangePassword = "change-password", Admin or Own, "change a password, with the current one";
        SeeCredentials = "see-credentials", Admin or Own, "application credentials";
        ChangeCredentials = "change-credentials", Admin or Own, "make and delete application credentials (make: one's own)";
    }
    Anybody {
        SeeOneself = "see-oneself", Reader, "one's own token, its catalogue, one's projects and domains, the list of roles";
    }
}

/// What something belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Shared: it belongs to the plane.
    Plane,
    Domain(DomainId),
    /// What belongs to a project, and the project itself.
    Project(ProjectId, DomainId),
    User {
        id: UserId,
        domain: DomainId,
        /// Has a role in the whole plane: a caller who could change this user would gain that role.
        exalted: bool,
    },
    Group {
        domain: DomainId,
        /// As for a user.
        exalted: bool,
    },
    /// Not one named thing but a search or a creation: each thing is then judged on its own.
    Somewhere,
}

/// What a token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) user: UserId,
    /// In the whole plane.
    pub(super) plane: Option<Role>,
    pub(super) domain: Option<(DomainId, Role)>,
    pub(super) project: Option<(ProjectId, Role)>,
    /// A kubeconfig's token: only that cluster's API and metrics.
    pub(super) kubernetes_only: bool,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// It exists, and the caller may not.
    Refused,
    /// The caller may not even see it.
    Hidden,
}

/// Whether a token allows an action.
pub(super) fn authorize(action: Action, rights: &Rights, owner: &Owner) -> Verdict {
    if rights.kubernetes_only && !matches!(action, Action::UseKubernetes | Action::SeeNumbers) {
        return Verdict::Refused;
    }
    let own = matches!(owner, Owner::User { id, .. } if *id == rights.user);
    let role = rights.role(action.realm(), owner);
    let may = match action.realm() {
        Realm::Anybody => true,
        Realm::Fleet | Realm::Directory | Realm::Plane => role >= Some(action.least()),
    };
    if may || (own && action.is_for_own()) {
        return Verdict::Allowed;
    }
    let is_seen = match owner {
        Owner::Plane | Owner::Somewhere => true,
        Owner::User { .. } => own || rights.near(owner).is_some(),
        Owner::Domain(_) | Owner::Project(..) | Owner::Group { .. } => {
            rights.near(owner).is_some() || role.is_some()
        }
    };
    match is_seen {
        true => Verdict::Refused,
        false => Verdict::Hidden,
    }
}

impl Rights {
    /// The role that applies to this owner's things.
    fn role(&self, realm: Realm, owner: &Owner) -> Option<Role> {
        let elsewhere = match (realm, owner) {
            (Realm::Plane | Realm::Anybody, _) => None,
            (_, Owner::User { exalted: true, .. } | Owner::Group { exalted: true, .. }) => {
                // Visible like any other; only plane-wide roles may change it.
                self.near(owner).map(|r| r.min(Role::Reader))
            }
            (Realm::Fleet, Owner::Project(id, _)) => self.in_project(id),
            (Realm::Fleet, Owner::Somewhere) => self.project.as_ref().map(|(_, r)| *r),
            (Realm::Directory, Owner::Project(id, domain)) => {
                let seen = self.in_project(id).map(|_| Role::Reader);
                self.in_domain(domain).max(seen)
            }
            (Realm::Directory, Owner::Somewhere) => {
                let seen = self.project.as_ref().map(|_| Role::Reader);
                self.domain.as_ref().map(|(_, r)| *r).max(seen)
            }
            (Realm::Directory, _) => self.near(owner),
            (Realm::Fleet, _) => None,
        };
        self.plane.max(elsewhere)
    }

    /// The role in the domain, or the project, that something belongs to.
    fn near(&self, owner: &Owner) -> Option<Role> {
        let near = match owner {
            Owner::Domain(domain) | Owner::User { domain, .. } | Owner::Group { domain, .. } => {
                self.in_domain(domain)
            }
            Owner::Project(id, domain) => self.in_domain(domain).max(self.in_project(id)),
            Owner::Plane | Owner::Somewhere => None,
        };
        self.plane.max(near)
    }

    /// Whether anything of a project is visible at all.
    pub(super) fn sees(&self, project: &ProjectId) -> bool {
        self.plane.is_some() || self.in_project(project).is_some()
    }

    /// The Kubernetes role in a cluster of this project.
    pub(super) fn in_clusters_of(&self, project: &ProjectId) -> Option<Role> {
        self.plane.max(self.in_project(project))
    }

    fn in_project(&self, id: &ProjectId) -> Option<Role> {
        let of = self.project.as_ref().filter(|(p, _)| p == id);
        of.map(|(_, role)| *role)
    }

    fn in_domain(&self, id: &DomainId) -> Option<Role> {
        let of = self.domain.as_ref().filter(|(d, _)| d == id);
        of.map(|(_, role)| *role)
    }
}

impl Role {
    /// All of them, the least first.
    pub(super) const ALL: [Self; 3] = [Self::Reader, Self::Member, Self::Admin];

    /// Its name, which is its id as well.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }

    /// The Kubernetes group of its users.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Reader => "pf9:role:reader",
            Self::Member => "pf9:role:member",
            Self::Admin => "pf9:role:admin",
        }
    }

    /// Kubernetes' built-in role that they have in a cluster.
    pub(super) fn cluster_role(self) -> &'static str {
        match self {
            Self::Reader => "view",
            Self::Member => "edit",
            Self::Admin => "cluster-admin",
        }
    }

    /// A role of ours beside it, installed by the stack's add-ons. An admin needs none.
    pub(super) fn own_cluster_role(self) -> Option<&'static str> {
        match self {
            Self::Reader | Self::Member => Some("pf9:see-nodes"),
            Self::Admin => None,
        }
    }

    /// The role with this id; other ids mean nothing here.
    pub(super) fn of(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == id)
    }
}

#[cfg(test)]
mod tests;
