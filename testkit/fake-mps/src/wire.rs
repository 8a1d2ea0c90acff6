//! Whole messages over `SOCK_SEQPACKET`, one of which may carry a socket. The words in them are the fake's own.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, UCred,
};

/// Longest message; `ps` of a hundred clients has a tenth of it.
const MAX_MESSAGE: usize = 128 * 1024;
/// More than any test connects at once.
const BACKLOG: i32 = 64;

/// Takes the place of whatever file is there.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket()?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket()?;
    net::connect(&socket, &address)?;
    Ok(socket)
}

fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// The next connection and who is at its other end.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, UCred)> {
    let socket = net::accept_with(listener, SocketFlags::CLOEXEC)?;
    let peer = net::sockopt::socket_peercred(&socket)?;
    Ok((socket, peer))
}

pub(crate) fn send(socket: impl AsFd, text: &str) -> io::Result<()> {
    send_bytes(socket, text.as_bytes())
}

pub(crate) fn send_bytes(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    net::send(socket, bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sends `text` and, with it, another socket.
pub(crate) fn send_with(socket: impl AsFd, text: &str, passed: impl AsFd) -> io::Result<()> {
    let passed = [passed.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&passed));
    let parts = [IoSlice::new(text.as_bytes())];
    net::sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message as it is; empty when the other end has closed.
pub(crate) fn receive_bytes(socket: impl AsFd) -> io::Result<Vec<u8>> {
    Ok(receive_raw(socket)?.0)
}

/// The next message and the socket in it; none when the other end has closed.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<(String, Option<OwnedFd>)>> {
    let (bytes, passed) = receive_raw(socket)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok((!bytes.is_empty()).then_some((text, passed)))
}

fn receive_raw(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let passed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let length = got.bytes;
    bytes.truncate(length);
    Ok((bytes, passed))
}
