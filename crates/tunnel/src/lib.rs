//! The tunnel: one outbound connection, many streams.
//!
//! ```text
//! wire (the protocol, sans-IO) ◄── mux (its sessions, with tokio)
//! ```
//!
//! A crate of its own, so that the compiler keeps it free of hosts, planes and documents. `docs/protocol.md` specifies
//! the protocol.

pub mod mux;
pub mod wire;

/// The whole chain of an error, outermost first, separated by `: `.
///
/// The one place where chains are printed; `Display` of our errors never repeats the source.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
