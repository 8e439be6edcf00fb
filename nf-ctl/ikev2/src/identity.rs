//! Who a peer is: the names that IDi and IDr payloads carry (RFC 7296 3.5).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use x509_cert::der::{Decode, Encode};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

use crate::wire::{Id, IdType};

/// An identity of ours or of a peer's.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity(Id<'static>);

/// Why a text isn't an identity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("identity '{text}': {problem}")]
pub struct IdentityError {
    text: String,
    problem: &'static str,
}

impl Identity {
    /// The identity in an ID payload.
    pub(crate) fn from_wire(id: &Id<'_>) -> Self {
        Identity(id.clone().into_owned())
    }

    /// For the ID payload.
    pub(crate) fn to_wire(&self) -> Id<'static> {
        self.0.clone()
    }

    /// An address.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Identity(Id::new(IdType::IPV4_ADDR, address.octets().to_vec())),
            IpAddr::V6(address) => Identity(Id::new(IdType::IPV6_ADDR, address.octets().to_vec())),
        }
    }

    /// A distinguished name, DER.
    pub fn distinguished_name(der: &[u8]) -> Self {
        Identity(Id::new(IdType::DER_ASN1_DN, der.to_vec()))
    }

    /// What kind of name it is.
    pub fn kind(&self) -> IdType {
        self.0.kind
    }

    /// The name's octets, as on the wire.
    pub fn data(&self) -> &[u8] {
        &self.0.data
    }

    /// True where both are the same name. Domain names and email addresses are compared without case, distinguished names
    /// by what they say: the same text may be encoded as more than one type of string.
    pub fn matches(&self, other: &Identity) -> bool {
        match self.kind() {
            kind if kind != other.kind() => false,
            IdType::FQDN | IdType::RFC822_ADDR => self.data().eq_ignore_ascii_case(other.data()),
            IdType::DER_ASN1_DN if self.data() != other.data() => {
                let names = Name::from_der(self.data()).ok().zip(Name::from_der(other.data()).ok());
                names.is_some_and(|(ours, theirs)| ours.to_string() == theirs.to_string())
            }
            _ => self.data() == other.data(),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// As strongSwan reads them: an address, `user@example.org`, `vpn.example.org` or `@vpn.example.org`, `@#0a0b0c` for
    /// a key ID in hex, `C=CH, O=Example, CN=vpn` for a distinguished name in the certificate's order; `fqdn:`, `email:`,
    /// `keyid:` in front of a text force its kind.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let error = |problem| IdentityError { text: text.to_owned(), problem };
        let id = |kind, name: &str| {
            if name.is_empty() {
                Err(error("it is empty"))
            } else {
                Ok(Identity(Id::new(kind, name.as_bytes().to_vec())))
            }
        };
        if let Ok(address) = text.parse() {
            return Ok(Identity::address(address));
        }
        if let Some(hex) = text.strip_prefix("@#") {
            let octets = hex_octets(hex).ok_or_else(|| error("give the key ID after '@#' as pairs of hex digits"))?;
            return Ok(Identity(Id::new(IdType::KEY_ID, octets)));
        }
        match text.split_once(':') {
            Some(("fqdn", name)) => return id(IdType::FQDN, name),
            Some(("email", name)) => return id(IdType::RFC822_ADDR, name),
            Some(("keyid", name)) => return id(IdType::KEY_ID, name),
            _ => {}
        }
        if text.contains('=') {
            let name = distinguished_name(text).ok_or_else(|| {
                error("give a distinguished name as TYPE=VALUE, separated by commas, such as C=CH, O=Example, CN=vpn")
            })?;
            return Ok(Identity::distinguished_name(&name));
        }
        if let Some(name) = text.strip_prefix('@') {
            return id(IdType::FQDN, name);
        }
        if text.contains('@') { id(IdType::RFC822_ADDR, text) } else { id(IdType::FQDN, text) }
    }
}

/// The DER of a name whose parts are in the order of the encoding. (RFC 4514 has them the other way round.)
fn distinguished_name(text: &str) -> Option<Vec<u8>> {
    let parts = text.split(',').map(|part| part.trim().parse::<RelativeDistinguishedName>().ok());
    RdnSequence::from(parts.collect::<Option<Vec<_>>>()?).to_der().ok()
}

fn hex_octets(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Name::from_der(self.data()) {
            Ok(name) if self.kind() == IdType::DER_ASN1_DN => {
                // The order of the encoding again; control characters could fool a terminal.
                let parts: Vec<_> = name.iter_rdn().map(|part| part.to_string().escape_default().to_string()).collect();
                f.write_str(&parts.join(", "))
            }
            _ => self.0.fmt(f),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> Identity {
        text.parse().unwrap()
    }

    #[test]
    fn kinds_follow_from_the_text() {
        for (text, kind) in [
            ("10.0.0.1", IdType::IPV4_ADDR),
            ("2001:db8::1", IdType::IPV6_ADDR),
            ("vpn.example.org", IdType::FQDN),
            ("@vpn.example.org", IdType::FQDN),
            ("user@example.org", IdType::RFC822_ADDR),
            ("@#00ff", IdType::KEY_ID),
            ("keyid:branch 7", IdType::KEY_ID),
            ("fqdn:10.0.0.1", IdType::FQDN),
            ("C=CH, O=Test, CN=a", IdType::DER_ASN1_DN),
        ] {
            assert_eq!(identity(text).kind(), kind, "{text}");
        }
        assert_eq!(identity("@#00ff").data(), [0, 0xff]);
        assert_eq!(format!("{:?}", identity("vpn.example.org")), "ID_FQDN(vpn.example.org)");
        assert_eq!(identity("C=CH,O=Test,  CN=a").to_string(), "C=CH, O=Test, CN=a");
        for bad in ["", "@", "@#0", "@#", "@#zz", "email:", "X=Y", "CN=a,b"] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_match_without_case_and_never_across_kinds() {
        assert!(identity("VPN.example.org").matches(&identity("@vpn.EXAMPLE.org")));
        assert!(!identity("fqdn:10.0.0.1").matches(&identity("10.0.0.1")));
        assert!(!identity("keyid:a").matches(&identity("keyid:A")));
    }
}
