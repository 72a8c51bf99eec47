//! What a mediator wants of its driver.

#[cfg(doc)]
use super::Mediator;

/// What the driver is to do, in this order, besides moving bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Connect to the server, then call [`Mediator::connected`] or [`Mediator::not_connected`]. A driver that brings a connection
    /// along calls `connected` at once.
    Dial,
    /// Do a TLS handshake with the server (everything in [`Mediator::to_server`] is written by then), then call
    /// [`Mediator::handshake_done`] or [`Mediator::handshake_failed`].
    Handshake,
    /// Drop the connection to the server at once, whatever is unwritten: it must not take what it got for complete.
    DropServer,
    /// Write what is in [`Mediator::to_server`], then close in order.
    CloseServer,
    /// Nothing is said to the server any more: it may be kept for the client's next session, with [`Mediator::kept`]. A driver that has no use for it says QUIT.
    KeepServer,
    /// Keep the connection to the server as it is, neither read nor written: another is dialled.
    SetAside,
    /// Drop the connection to the server, if there is one: that which was set aside is the server's again.
    TakeBack,
    /// Close what was set aside, in order or at once.
    LeaveAside {
        /// Say QUIT first.
        quit: bool,
    },
    /// Write what is in [`Mediator::to_client`], do a TLS handshake with the client as its server, then call [`Mediator::client_secured`] or
    /// [`Mediator::client_not_secured`]. Nothing that the client sent before its handshake is of any use any more.
    SecureClient,
    /// Write what is in [`Mediator::to_client`], then close in order. The session is over.
    CloseClient,
}
