//! The plane as one process sees it from outside: operators over HTTPS, nodes through tunnels,
//! the administrator on his socket. All sockets are real, all ports are free ones.

mod bed;
mod clusters;
mod kube;
mod machines;
mod metrics;
mod node;
mod operators;
mod rotation;
mod stacks;
mod stop;
mod tickets;
mod tunnels;
