//! The management-plane stub `pf9-plane`: one process, one HTTPS port, one store.
//!
//! It is an independent peer of the agent: it shares the documents (`model`) and the tunnel
//! (`wire`, `mux`) with it and nothing else.
//!
//! | files | hold |
//! |---|---|
//! | `command`, `serve`, `handshakes`, `tls`, `http`, `refusal` | command line, listener, TLS and its limits, HTTP helpers, errors |
//! | `bootstrap`, `store`, `records`, `state`     | first start, redb or etcd, rows, the one way to change them |
//! | `ca`, `secrets`, `tokens`, `enrol`, `endpoints` | authorities, digests, one-time tokens, enrolment, the plane's addresses |
//! | `keys`, `takeover`, `trust`                 | the plane's own keys, their replacement, trust documents for hosts |
//! | `operations`                                 | one-time operations of hosts and their results |
//! | `maintenance`                                | hosts in maintenance |
//! | `machines`, `tickets`                       | telling a host's machine from its copies |
//! | `hostkey`, `excuse`                          | which key opens which session, its replacement; expiry is excused in TLS |
//! | `access`, `guard`, `routes`                  | permissions (pure), their check at every route, the table of routes |
//! | `audit`                                      | who changed what |
//! | `people`, `logins`, `keystone`               | users, groups, projects; tokens; Keystone's REST API |
//! | `resmgr`, `qbert`, `settings`, `view`, `fleet`, `roster` | the operators' REST APIs; hosts page by page |
//! | `membership`, `compute`, `specs`             | members of a cluster, desired state of hosts (pure), signing |
//! | `tunnel`, `sessions`, `budget`, `hostapi`, `polls` | tunnels, their rate limit, and what nodes send through them |
//! | `orders`, `nonces`, `claims`, `refused`      | root's signed orders, each once; claims of names and addresses; refusals in the log |
//! | `clocks`                                     | hosts with a wrong clock |
//! | `moved`                                      | nodes whose machine changed its address |
//! | `certificates`, `events`, `stacks`           | certificates and stacks for nodes, events from them |
//! | `authorities`, `rotation`                   | replacement of a cluster's authorities (`rotation` is pure) |
//! | `backups`                                   | backups of etcd: the policy, the masters' backups, the cluster's key |
//! | `proxy`, `kubeconfig`                        | Kubernetes APIs through the tunnels |
//! | `zones`, `shared_address`                   | failure zones; the masters' shared address (pure) |
//! | `rights`, `departures`                       | role bindings inside a cluster, and their end |
//! | `rolls`                                      | rolling a cluster to another stack, node by node |
//! | `etcd`                                       | members of etcd: which may leave, which are removed, which wait |
//! | `ways`, `trace`                              | a host's service, through any of its sessions; request ids |
//! | `standing`                                   | whether the store answers |
//! | `whereabouts`                                | which addresses this plane has, by its URLs and their names |
//! | `metrics`                                    | hosts' metrics through the tunnels, for Prometheus |
//! | `admin`                                      | the administrator's socket |
//! | `page`, `terminal`                           | the web page, and its stream of changes; kubectl on it |
//! | `agents`, `served`                           | versions of the agent and the fleet's upgrade; files that hosts fetch |
//! | `alerts`                                     | alerts: rules, causes, repeats, delivery |
//! | `recover`                                    | hosts that are ahead of a plane that was restored |
//!
//! ```text
//! operator ─► keystone, resmgr, qbert ─┐                      ┌─► specs ─► hostapi ─► node
//!                                      ├─► state::change ─► store
//! node ─► enrol, hostapi ──────────────┘   (one transaction, specs included)
//! ```

mod access;
mod addons;
mod admin;
mod agents;
mod alerts;
mod audit;
mod authorities;
mod backups;
mod bootstrap;
mod budget;
mod bundles;
mod ca;
mod certificates;
mod claims;
mod clocks;
mod command;
mod compute;
mod departures;
mod endpoints;
mod enrol;
mod etcd;
mod events;
mod excuse;
mod fair;
mod fleet;
mod guard;
mod handshakes;
mod hostapi;
mod hostkey;
mod http;
mod keys;
mod keystone;
mod kubeconfig;
mod logins;
mod machines;
mod maintenance;
mod membership;
mod metrics;
mod moved;
mod nonces;
mod operations;
mod orders;
mod page;
mod passwords;
mod peers;
mod people;
mod polls;
mod proxy;
mod qbert;
mod records;
mod recover;
mod refusal;
mod refused;
mod resmgr;
mod rights;
mod rolls;
mod roster;
mod rotation;
mod routes;
mod secrets;
mod serve;
mod served;
mod sessions;
mod settings;
mod shared_address;
mod specs;
mod stacks;
mod standing;
mod state;
mod store;
mod strangers;
mod takeover;
mod terminal;
#[cfg(any(test, feature = "fault"))]
pub mod testing;
mod tickets;
mod tls;
mod tokens;
mod trace;
mod trust;
mod tunnel;
mod view;
mod ways;
mod whereabouts;
mod zones;

#[cfg(test)]
#[path = "../../../tests/support/sample.rs"]
mod sample;

pub use budget::{Budget, Full, TUNNELS_PER_S};
pub use command::main;
pub use handshakes::Handshakes;
pub use routes::{Listed, listed};
pub use serve::{ServeConfig, Server};
pub use store::EtcdPlace;
pub use terminal::TerminalConfig;
