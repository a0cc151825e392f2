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

/// An error and what caused it, outermost first.
pub fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |e| e.source())
}

/// The whole chain of an error, outermost first, separated by `: `.
///
/// The one place where chains are printed; `Display` of our errors never repeats the source.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.join(": ")
}
