//! The server as its handlers and clients know it, over real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "all of this is test code: clippy exempts only functions with #[test]"
)]

mod exchanges;
mod life;
mod stage;
