//! Who may do what over a control socket.
//!
//! The socket's mode and group decide who may connect. Of those, `[control] admins` names who may change something; all
//! others may look. A client is known by what the kernel says of it (SO_PEERCRED), at the time when it connected.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;

use rustix::net::sockopt::socket_peercred;

use crate::sa::spec::FieldError;

/// Where users and groups are looked up by name.
const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// `[control]`: the socket's file, and who may change something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// The group that owns the socket; without it the process' own.
    pub group: Option<Group>,
    /// The socket's permissions.
    pub mode: u32,
    /// Who may change something, beside root and the process' own user; without it everybody who may connect.
    pub admins: Option<Vec<Principal>>,
}

impl Default for Access {
    fn default() -> Self {
        Access { group: None, mode: 0o660, admins: None }
    }
}

/// A group, by name or number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group(String);

impl Group {
    /// Its number; none where there is no such group.
    pub(super) fn id(&self) -> Option<u32> {
        self.0.parse().ok().or_else(|| number(&read(GROUPS), &self.0))
    }
}

impl FromStr for Group {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<Group, FieldError> {
        if is_name(text) {
            return Ok(Group(text.to_owned()));
        }
        Err(FieldError::new("group", "isn't a group's name or number"))
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user, or all users of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// A user, by name or number.
    User(String),
    /// A group, by name or number.
    Group(String),
}

impl FromStr for Principal {
    type Err = FieldError;

    /// A user; with `%` before it a group, as sudo writes it.
    fn from_str(text: &str) -> Result<Principal, FieldError> {
        match text.strip_prefix('%') {
            Some(group) if is_name(group) => Ok(Principal::Group(group.to_owned())),
            None if is_name(text) => Ok(Principal::User(text.to_owned())),
            _ => {
                let message = "names a user as `alice` or `1000`, a group as `%netops` or `%1000`";
                Err(FieldError::new("admins", message))
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b':' | b',' | b'%'))
}

/// A client, as the kernel knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process, at the time when it connected.
    pub pid: i32,
}

impl Client {
    /// Who is at the other end.
    pub(super) fn of(stream: &UnixStream) -> std::io::Result<Client> {
        let known = socket_peercred(stream)?;
        Ok(Client { uid: known.uid.as_raw(), gid: known.gid.as_raw(), pid: known.pid.as_raw_nonzero().get() })
    }

    /// The user's name, where it has one.
    pub fn user(&self) -> Option<String> {
        name(&read(USERS), self.uid)
    }
}

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Look.
    ReadOnly,
    /// Look and change.
    Admin,
}

impl Access {
    /// What a client may do.
    pub(super) fn role(&self, client: Client) -> Role {
        let own = rustix::process::geteuid().as_raw();
        self.role_by(client, own, &read(USERS), &read(GROUPS))
    }

    fn role_by(&self, client: Client, own: u32, users: &str, groups: &str) -> Role {
        let Some(admins) = &self.admins else {
            return Role::Admin;
        };
        let user = name(users, client.uid);
        let is = |principal: &Principal| match principal {
            Principal::User(wanted) => {
                wanted.parse() == Ok(client.uid) || (user.as_deref() == Some(wanted) && !wanted.is_empty())
            }
            Principal::Group(wanted) => {
                let id = wanted.parse().ok().or_else(|| number(groups, wanted));
                id == Some(client.gid) || user.as_deref().is_some_and(|user| is_member(groups, wanted, user))
            }
        };
        if client.uid == 0 || client.uid == own || admins.iter().any(is) { Role::Admin } else { Role::ReadOnly }
    }
}

fn read(path: &str) -> String {
    // Without it nobody has a name, and nobody more than root's rights.
    std::fs::read_to_string(Path::new(path)).unwrap_or_default()
}

/// The fields of passwd(5) and group(5): a name, then, as the third, its number.
fn entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        Some((name, number, fields.next().unwrap_or_default()))
    })
}

fn number(text: &str, name: &str) -> Option<u32> {
    entries(text).find(|(entry, ..)| *entry == name).map(|(_, number, _)| number)
}

fn name(text: &str, number: u32) -> Option<String> {
    entries(text).find(|(_, entry, _)| *entry == number).map(|(name, ..)| name.to_owned())
}

/// Whether a group, by name or number, has a user among its members.
fn is_member(groups: &str, group: &str, user: &str) -> bool {
    entries(groups)
        .filter(|(name, number, _)| *name == group || group.parse() == Ok(*number))
        .any(|(_, _, members)| members.split(',').any(|member| member == user))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\nbroken\n";
    const GROUPS: &str = "root:x:0:\nnetops:x:50:carol,bob\nalice:x:1000:\n";

    fn role(admins: &[&str], uid: u32, gid: u32) -> Role {
        let admins = Some(admins.iter().map(|text| text.parse().unwrap()).collect());
        Access { admins, ..Access::default() }.role_by(Client { uid, gid, pid: 1 }, 998, USERS, GROUPS)
    }

    #[test]
    fn admins_are_named_by_user_and_group() {
        for (admins, uid, gid, wanted) in [
            (&["alice"][..], 1000, 1000, Role::Admin),
            (&["1000"], 1000, 1000, Role::Admin),
            (&["alice"], 1001, 1001, Role::ReadOnly),
            (&["%netops"], 1001, 1001, Role::Admin),
            (&["%50"], 1001, 1001, Role::Admin),
            (&["%netops"], 1000, 50, Role::Admin),
            (&["%netops"], 1000, 1000, Role::ReadOnly),
            (&["netops"], 1001, 50, Role::ReadOnly),
            (&[], 1000, 1000, Role::ReadOnly),
            (&[], 4711, 4711, Role::ReadOnly),
            // Root could do anything anyway, and the process' own user too.
            (&[], 0, 0, Role::Admin),
            (&[], 998, 998, Role::Admin),
        ] {
            assert_eq!(role(admins, uid, gid), wanted, "{admins:?} {uid} {gid}");
        }
        let everybody = Access::default().role_by(Client { uid: 1001, gid: 1001, pid: 1 }, 998, USERS, GROUPS);
        assert_eq!(everybody, Role::Admin, "without a list, whoever may connect");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "%", "a:b", "a b", "%%a"] {
            assert!(text.parse::<Principal>().is_err(), "{text}");
        }
        assert!("nf core".parse::<Group>().is_err());
        assert_eq!("%netops".parse(), Ok(Principal::Group("netops".to_owned())));
    }

    #[test]
    fn the_kernel_tells_who_a_client_is() {
        let (_one, other) = UnixStream::pair().unwrap();
        let client = Client::of(&other).unwrap();
        assert_eq!(client.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(client.uid, rustix::process::getuid().as_raw());
    }
}
