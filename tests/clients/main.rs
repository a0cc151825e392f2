//! Third-party clients, as people have them, against the plane.
//!
//! ```text
//! openstack  python-openstackclient, the real one: python3 scripts/lib/openstack.py installs it once
//! ```
//!
//! A missing program is a failure, never a skip. `scripts/test` installs it and runs all of it.

mod openstack;
