//! The log: every request, whatever became of it.

use std::time::SystemTime;

/// A request that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When its head had arrived, by the machine's clock.
    pub at: SystemTime,
    /// `GET` or `PUT` from decent clients.
    pub method: String,
    /// The path, percent-decoded.
    pub path: String,
    /// The session token that it carried.
    pub token: TokenUse,
    /// What the script made of it, by the name that the fate has in a script.
    pub fate: Option<&'static str>,
    /// The status that was answered; `None` if none was, or not yet.
    pub status: Option<u16>,
    /// The `User-Agent`.
    pub user_agent: Option<String>,
}

/// What a request said in `X-aws-ec2-metadata-token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// Nothing: `IMDSv1`, or the request for a token.
    Absent,
    /// A token that the service gave and that is still good.
    Good,
    /// One that it gave, but whose time is over.
    Expired,
    /// One that it never gave, or has forgotten.
    Unknown,
}
