//! People: domains, projects, users, groups, roles and role assignments, application credentials.
//!
//! | file | holds |
//! |---|---|
//! | here    | the rows, and their ids |
//! | `find`  | reading them: by name, current roles, owners |
//! | `make`  | the first ones, and the upgrade of a store without people |
//! | `reset` | a new password for an administrator who lost theirs |
//! | `keep`  | changing them: unique names, bounds, cascades |
//!
//! Rights are looked up with every request and are in no token: a lost role, a disabled user or a changed password
//! takes effect immediately. Everything a tenant can list is bounded per tenant ([`PROJECTS_MAX`] and so on, each per
//! domain), so nobody uses up another's quota.

pub(super) mod find;
pub(super) mod keep;
pub(super) mod make;
pub(super) mod reset;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::secrets::PasswordHash;
use super::store::Rows;

/// Domains by id.
pub(super) const DOMAINS: Rows<Domain> = Rows::new("domains");
/// Projects by id.
pub(super) const PROJECTS: Rows<Project> = Rows::new("projects");
/// People by id.
pub(super) const USERS: Rows<User> = Rows::new("users");
/// Groups by id.
pub(super) const GROUPS: Rows<Group> = Rows::new("groups");
/// Group memberships, by `<user>/<group>`.
pub(super) const MEMBERS: Rows<()> = Rows::new("group-members");
/// Roles by id.
pub(super) const ROLES: Rows<RoleRow> = Rows::new("roles");
/// Role assignments, by [`Grant::key`].
pub(super) const GRANTS: Rows<Grant> = Rows::new("grants");
/// Application credentials by id.
pub(super) const CREDENTIALS: Rows<Credential> = Rows::new("credentials");
/// Ids of application credentials by `<user>/<id>`.
pub(super) const CREDENTIALS_OF: Rows<()> = Rows::new("credentials-of");

/// Names of these tables.
pub(super) const TABLES: [&str; 9] = [
    "domains",
    "projects",
    "users",
    "groups",
    "group-members",
    "roles",
    "grants",
    "credentials",
    "credentials-of",
];

/// The domain that every plane has.
pub(super) const DEFAULT_DOMAIN: &str = "default";
/// Its name.
pub(super) const DEFAULT_DOMAIN_NAME: &str = "Default";
/// Domains of a plane: one per customer.
pub(super) const DOMAINS_MAX: usize = 1000;
/// Projects of a domain.
pub(super) const PROJECTS_MAX: usize = 1000;
/// Users of a domain.
pub(super) const USERS_MAX: usize = 10_000;
/// Groups of a domain.
pub(super) const GROUPS_MAX: usize = 1000;
/// Roles of a plane: three mean something here, others are for other users of Keystone.
pub(super) const ROLES_MAX: usize = 100;
/// Application credentials of a user.
pub(super) const CREDENTIALS_MAX: usize = 50;
/// Groups of one user: they are looked up with each request.
pub(super) const GROUPS_OF_ONE_MAX: usize = 50;
/// Longest name; Keystone's is 255, but `<domain>/<name>` is sent with a stream to a node, whose metadata values have
/// 128 bytes.
pub(super) const NAME_MAX: usize = 63;
/// Longest description.
pub(super) const DESCRIPTION_MAX: usize = 1024;
/// Shortest password: NIST SP 800-63B.
pub(super) const PASSWORD_MIN: usize = 8;
/// Longest password: one is hashed for every unauthenticated caller.
pub(super) const PASSWORD_MAX: usize = 256;
/// Longest id.
const ID_MAX: usize = 64;

macro_rules! ids {
    ($( #[doc = $doc:literal] $name:ident, )*) => {$(
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub(super) struct $name(String);

        impl $name {
            /// A new random one.
            pub(super) fn fresh() -> Self {
                Self(Uuid::new_v4().simple().to_string())
            }

            /// Parses an id from a caller. Ids are parts of keys: they contain no separators.
            pub(super) fn of(said: &str) -> Option<Self> {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                let sound = (1..=ID_MAX).contains(&said.len()) && said.bytes().all(plain);
                sound.then(|| Self(said.to_owned()))
            }

            /// As text.
            pub(super) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// Id of a domain.
    DomainId,
    /// Id of a project.
    ProjectId,
    /// Id of a user.
    UserId,
    /// Id of a group.
    GroupId,
    /// Id of a role.
    RoleId,
    /// Id of an application credential.
    CredentialId,
}

/// A customer, with its own people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Domain {
    pub(super) id: DomainId,
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) enabled: bool,
}

/// What hosts and clusters belong to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Project {
    pub(super) id: ProjectId,
    pub(super) domain: DomainId,
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) enabled: bool,
}

/// A person, or a program with an account of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) id: UserId,
    pub(super) domain: DomainId,
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) email: Option<String>,
    pub(super) enabled: bool,
    /// Scope of a token that asks for none.
    #[serde(default)]
    pub(super) default_project: Option<ProjectId>,
    /// None: no login by password.
    pub(super) password: Option<PasswordHash>,
    /// Older tokens and long-lived kubeconfigs are invalid.
    pub(super) since: Timestamp,
}

/// Users who share roles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) domain: DomainId,
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
}

/// A role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RoleRow {
    pub(super) id: RoleId,
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
}

/// Where a role is granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Place {
    Plane,
    Domain(DomainId),
    Project(ProjectId),
}

/// The holder of a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Actor {
    User(UserId),
    Group(GroupId),
}

/// A role assignment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) place: Place,
    pub(super) actor: Actor,
    pub(super) role: RoleId,
}

/// A secret that acts as its user in one project, with some of the user's roles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Credential {
    pub(super) id: CredentialId,
    pub(super) user: UserId,
    pub(super) project: ProjectId,
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    /// The user must still have each of these, or the credential is worth none of them.
    pub(super) roles: Vec<RoleId>,
    pub(super) secret: PasswordHash,
    pub(super) created_at: Timestamp,
    #[serde(default)]
    pub(super) expires_at: Option<Timestamp>,
    /// May make and delete others like it.
    #[serde(default)]
    pub(super) unrestricted: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plane => f.write_str("plane"),
            Self::Domain(id) => write!(f, "domain:{id}"),
            Self::Project(id) => write!(f, "project:{id}"),
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Group(id) => write!(f, "group:{id}"),
        }
    }
}

/// Key prefix of all roles of an actor in a place.
pub(super) fn grants_of(place: &Place, actor: &Actor) -> String {
    format!("{place}|{actor}|")
}

impl Grant {
    /// Its row's key.
    pub(super) fn key(&self) -> String {
        format!("{}{}", grants_of(&self.place, &self.actor), self.role)
    }
}
