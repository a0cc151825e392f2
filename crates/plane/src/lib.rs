//! The management-plane stub `pf9-plane`: one process, one HTTPS port, one store.
//!
//! It is an independent peer of the agent: it shares the documents (`model`) and the tunnel
//! (`wire`, `mux`) with it and nothing else.
//!
//! | files | hold |
//! |---|---|
//! | `command`, `serve`, `handshakes`, `tls`, `http`, `refusal` | command line, listener, TLS and its turns, HTTP manners, errors |
//! | `bootstrap`, `store`, `records`, `state`     | first start, redb, rows, the one way to change them |
//! | `ca`, `secrets`, `tokens`, `enrol`, `endpoints` | authorities, digests, one-time tokens, becoming a host, where it comes |
//! | `keys`, `takeover`, `trust`                 | the plane's own keys, how they change, whom hosts are to believe |
//! | `operations`                                 | what hosts are to do once, and what came of it |
//! | `maintenance`                                | hosts on which nothing is to be changed for a time |
//! | `machines`, `tickets`                       | which machine a host is, and who only says so |
//! | `hostkey`, `excuse`                          | whose key opens what, how it is replaced; expiry is excused in TLS |
//! | `access`, `guard`, `routes`                  | who may do what (pure), the door of every route, all of them |
//! | `audit`                                      | who changed what, kept for whoever may see it |
//! | `people`, `logins`, `keystone`               | who there is, tokens, Keystone's REST |
//! | `resmgr`, `qbert`, `settings`, `view`, `fleet`, `roster` | operators' REST; hosts part by part |
//! | `membership`, `compute`, `specs`             | who is in a cluster, what follows from it (pure), signing |
//! | `tunnel`, `sessions`, `budget`, `hostapi`    | tunnels, how many may begin, and what nodes say through them |
//! | `orders`, `nonces`, `claims`, `refused`      | what root of a host says, once each, whose a name or an address is; refusals in the log |
//! | `clocks`                                     | hosts whose clock is away are told |
//! | `moved`                                      | a node whose machine has another address follows |
//! | `certificates`, `events`, `stacks`           | what nodes ask for and deliver |
//! | `authorities`, `rotation`                   | new authorities of a cluster take over (`rotation` is pure) |
//! | `backups`                                   | backups of etcd: what is wanted, what masters have, the cluster's key |
//! | `proxy`, `kubeconfig`                        | Kubernetes APIs through the tunnels |
//! | `zones`, `shared_address`                   | what of a cluster fails together; the address that masters share (pure) |
//! | `rights`, `departures`                       | who may do what in a cluster, and how that ends |
//! | `rolls`                                      | a cluster goes to another stack, node by node |
//! | `etcd`                                       | members of etcd: who may leave, who is taken out, who waits |
//! | `ways`, `trace`                              | a host's service, by whichever of its sessions works; a request's name |
//! | `metrics`                                    | hosts' numbers through the tunnels, for Prometheus |
//! | `admin`                                      | the administrator's socket |
//! | `page`                                       | the page that people look at, and when it looks again |
//! | `agents`, `served`                           | versions of the agent, and the fleet's way from one to another; files that hosts fetch |
//! | `alerts`                                     | what people are told of by themselves: rules, causes, repeats, delivery |
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
mod people;
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
mod state;
mod store;
mod strangers;
mod takeover;
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
mod zones;

#[cfg(test)]
#[path = "../../../tests/support/sample.rs"]
mod sample;

pub use budget::{Budget, Full, TUNNELS_PER_S};
pub use command::main;
pub use handshakes::Handshakes;
pub use routes::{Listed, listed};
pub use serve::{ServeConfig, Server};
