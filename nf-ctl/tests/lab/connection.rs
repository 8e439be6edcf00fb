//! IKE connections as strongSwan is told of them (swanctl.conf), from either gateway's side.

use std::fmt::Write;

use super::{BRANCH, HEAD, INSIDE, PEER};

/// Which gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Peer,
    Head,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Peer => Side::Head,
            Side::Head => Side::Peer,
        }
    }

    pub fn address(self) -> &'static str {
        match self {
            Side::Peer => PEER,
            Side::Head => HEAD,
        }
    }

    /// The identity it goes by.
    pub fn id(self) -> &'static str {
        match self {
            Side::Peer => "branch.example",
            Side::Head => "hub.example",
        }
    }

    /// The network behind it.
    pub fn subnet(self) -> String {
        match self {
            Side::Peer => format!("{BRANCH}/32"),
            Side::Head => format!("{INSIDE}/32"),
        }
    }
}

/// How the two prove who they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Auth {
    /// With a pre-shared key.
    Psk(String),
    /// With certificates that [`Pki`](super::charon::Pki) made.
    Certificates,
}

/// A connection with one CHILD_SA, called `net`. Fields are set freely; [`Connection::new`] has what most tests want.
#[derive(Clone, Debug)]
pub struct Connection {
    pub name: String,
    /// 1 or 2.
    pub version: u8,
    pub local: Side,
    pub auth: Auth,
    pub local_id: String,
    pub remote_id: String,
    pub local_ts: String,
    pub remote_ts: String,
    /// The other gateway's address; `%any` for a gateway that doesn't know it.
    pub remote_addrs: String,
    pub proposals: String,
    pub esp_proposals: String,
    /// Seconds between liveness checks; 0 for none.
    pub dpd_delay_s: u32,
    /// `clear`, `trap` or `restart`.
    pub dpd_action: String,
    /// `no`, `never`, `keep` or `replace`.
    pub unique: String,
    /// `none`, `trap` or `start`.
    pub close_action: String,
    /// `none`, `trap` or `start`.
    pub start_action: String,
    /// Seconds until the IKE SA is rekeyed; 0 for never.
    pub rekey_s: u32,
    /// Lines about the CHILD_SA's lifetime.
    pub child_limits: String,
    /// More lines for the connection, such as `childless = force`.
    pub more: String,
    /// More lines for its child.
    pub child_more: String,
}

impl Connection {
    /// IKEv2 with a pre-shared key, no liveness checks, no rekeys, nothing done by itself.
    pub fn new(local: Side) -> Connection {
        let remote = local.other();
        Connection {
            name: "gw".to_owned(),
            version: 2,
            local,
            auth: Auth::Psk("a secret of this test only".to_owned()),
            local_id: local.id().to_owned(),
            remote_id: remote.id().to_owned(),
            local_ts: local.subnet(),
            remote_ts: remote.subnet(),
            remote_addrs: remote.address().to_owned(),
            proposals: "aes128gcm16-prfsha256-x25519".to_owned(),
            esp_proposals: "aes128gcm16".to_owned(),
            dpd_delay_s: 0,
            dpd_action: "clear".to_owned(),
            unique: "no".to_owned(),
            close_action: "none".to_owned(),
            start_action: "none".to_owned(),
            rekey_s: 0,
            child_limits: "rekey_time = 0s".to_owned(),
            more: String::new(),
            child_more: String::new(),
        }
    }

    /// Changes fields.
    pub fn with(mut self, change: impl FnOnce(&mut Connection)) -> Connection {
        change(&mut self);
        self
    }

    /// As `connections { .. } secrets { .. }` of swanctl.conf.
    pub fn to_swanctl(&self) -> String {
        let (auth, local_more, secret) = match &self.auth {
            Auth::Psk(psk) => {
                let secret = format!(
                    "secrets {{ ike-{} {{\n id-1 = \"{}\"\n id-2 = \"{}\"\n secret = \"{psk}\"\n }} }}\n",
                    self.name, self.local_id, self.remote_id
                );
                ("psk", String::new(), secret)
            }
            Auth::Certificates => ("pubkey", format!("certs = {}.pem", self.local.id()), String::new()),
        };
        let mut text = String::new();
        writeln!(
            text,
            "connections {{ {name} {{
 version = {version}
 local_addrs = {local_addr}
 remote_addrs = {remote_addrs}
 proposals = {proposals}
 dpd_delay = {dpd}s
 unique = {unique}
 rekey_time = {rekey}s
 mobike = no
 {more}
 local {{\n auth = {auth}\n id = \"{local_id}\"\n {local_more}\n }}
 remote {{\n auth = {auth}\n id = \"{remote_id}\"\n }}
 children {{ net {{
 local_ts = {local_ts}
 remote_ts = {remote_ts}
 esp_proposals = {esp}
 dpd_action = {dpd_action}
 close_action = {close_action}
 start_action = {start_action}
 {limits}
 {child_more}
 }} }}
}} }}
{secret}",
            name = self.name,
            version = self.version,
            local_addr = self.local.address(),
            remote_addrs = self.remote_addrs,
            proposals = self.proposals,
            dpd = self.dpd_delay_s,
            unique = self.unique,
            rekey = self.rekey_s,
            more = self.more,
            local_id = self.local_id,
            remote_id = self.remote_id,
            local_ts = self.local_ts,
            remote_ts = self.remote_ts,
            esp = self.esp_proposals,
            dpd_action = self.dpd_action,
            close_action = self.close_action,
            start_action = self.start_action,
            limits = self.child_limits,
            child_more = self.child_more,
        )
        .unwrap();
        text
    }
}
