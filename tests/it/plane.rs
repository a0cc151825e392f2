//! The plane as one process sees it from outside: operators over HTTPS, nodes through tunnels,
//! the administrator on his socket. All sockets are real, all ports are free ones.

mod access;
mod addresses;
mod agents;
mod authorities;
mod backups;
mod bed;
mod clusters;
mod etcd;
mod hurry;
mod kube;
mod lifecycle;
mod machines;
mod metrics;
mod moved;
mod node;
mod objects;
mod operators;
mod orders;
mod os_update;
mod persons;
mod renewal;
mod restore;
mod rights;
mod stacks;
mod stop;
mod strangers;
mod takeover;
mod tenants;
mod tickets;
mod tunnels;
mod upgrade;
mod versions;
mod way_out;
