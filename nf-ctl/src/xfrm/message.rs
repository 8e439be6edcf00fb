//! XFRM's netlink messages (linux/xfrm.h), read without I/O.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, ParseableParametrized};
use netlink_packet_xfrm::constants::{
    AF_INET, AF_INET6, UDP_ENCAP_ESPINUDP, XFRM_MODE_TRANSPORT, XFRM_MODE_TUNNEL, XFRM_MSG_DELPOLICY, XFRM_MSG_DELSA,
    XFRM_MSG_EXPIRE, XFRM_MSG_FLUSHPOLICY, XFRM_MSG_FLUSHSA, XFRM_MSG_NEWPOLICY, XFRM_MSG_NEWSA, XFRM_MSG_UPDPOLICY,
    XFRM_MSG_UPDSA, XFRM_STATE_ESN,
};
use netlink_packet_xfrm::{Address, LifetimeConfig, Selector, UserSaInfo, XfrmAttrs, XfrmMessage};
use nf_core::policy::Upper;
use nf_core::sa::lifetime::{Lifetime, Limits};
use nf_core::sa::spec::{Direction, SaSpec, SelectorSpec};
use nf_core::types::Spi;
use serde::Serialize;
use zeroize::Zeroize;

use super::algorithm::transform;
use super::policy::{Policy, PolicyId};

/// IPPROTO_ESP.
pub(super) const ESP: u8 = 50;

/// The least that each kind has behind the netlink header; the crate takes that for granted.
const LEAST: [(u16, usize); 9] = [
    (XFRM_MSG_NEWSA, netlink_packet_xfrm::XFRM_USER_SA_INFO_LEN),
    (XFRM_MSG_UPDSA, netlink_packet_xfrm::XFRM_USER_SA_INFO_LEN),
    (XFRM_MSG_DELSA, netlink_packet_xfrm::XFRM_USER_SA_ID_LEN),
    (XFRM_MSG_EXPIRE, netlink_packet_xfrm::XFRM_USER_EXPIRE_LEN),
    (XFRM_MSG_FLUSHSA, 1),
    (XFRM_MSG_NEWPOLICY, netlink_packet_xfrm::XFRM_USER_POLICY_INFO_LEN),
    (XFRM_MSG_UPDPOLICY, netlink_packet_xfrm::XFRM_USER_POLICY_INFO_LEN),
    (XFRM_MSG_DELPOLICY, netlink_packet_xfrm::XFRM_USER_POLICY_ID_LEN),
    (XFRM_MSG_FLUSHPOLICY, 0),
];

/// What the kernel finds an SA by, and its source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct SaId {
    /// SPI.
    pub spi: Spi,
    /// Outer destination.
    pub dst: IpAddr,
}

impl fmt::Display for SaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SA {} to {}", self.spi, self.dst)
    }
}

/// An SA of the kernel's.
#[derive(Debug)]
pub struct Sa {
    /// Which.
    pub id: SaId,
    /// Outer source.
    pub src: IpAddr,
    /// When it was added, in seconds since the epoch.
    pub added_s: u64,
    /// By what policies name it.
    pub reqid: u32,
    /// Packets that the kernel itself has sent or received by it.
    pub used: u64,
    /// The peer's UDP port, of ESP in UDP.
    pub peer_port: Option<u16>,
    /// Whether the kernel uses it for some packets only: of a mark, or of an xfrm interface.
    pub bound: bool,
    /// As nf-core wants it where it is inbound, or what it has that nf-core doesn't.
    pub spec: Result<SaSpec, String>,
}

/// Something that the kernel tells about SAs of ESP, and about policies.
#[derive(Debug)]
pub enum Event {
    /// An SPI is reserved; keys will follow.
    Larval {
        /// Which.
        id: SaId,
        /// Outer source; none where the daemon didn't say.
        src: Option<IpAddr>,
    },
    /// An SA is installed, or was changed.
    Mature(Box<Sa>),
    /// An SA or a reserved SPI is gone.
    Deleted(SaId),
    /// A lifetime is over.
    Expired {
        /// Which.
        id: SaId,
        /// The hard one: it is gone.
        hard: bool,
    },
    /// All SAs are gone.
    Flushed,
    /// A policy is there, or was changed.
    Policy(Box<Policy>),
    /// A policy is gone.
    PolicyDeleted(PolicyId),
    /// All policies are gone.
    PoliciesFlushed,
    /// The end of a dump.
    Done,
    /// The kernel refuses what it was asked for, with this errno.
    Refused(i32),
}

/// Octets that aren't what linux/xfrm.h says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the kernel sent something that isn't XFRM ({0})")]
pub struct MessageError(String);

/// Reads all messages of a datagram. What is neither about SAs of ESP nor about policies is left out. Keys that are read are erased from what is in
/// between; the datagram is the caller's.
///
/// # Errors
/// [`MessageError`]. Nothing of what follows in the datagram is to be trusted then.
pub fn read(datagram: &[u8]) -> Result<Vec<Event>, MessageError> {
    let mut events = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let packet = NetlinkBuffer::new_checked(rest).map_err(|error| MessageError(error.to_string()))?;
        let length = packet.length() as usize;
        events.extend(read_one(packet.message_type(), packet.payload())?);
        // Messages begin at multiples of four octets.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(events)
}

fn read_one(kind: u16, payload: &[u8]) -> Result<Option<Event>, MessageError> {
    match kind {
        NLMSG_DONE => return Ok(Some(Event::Done)),
        NLMSG_ERROR => {
            let code = payload.first_chunk().ok_or_else(|| MessageError("an error without a code".to_owned()))?;
            return Ok(Some(Event::Refused(i32::from_ne_bytes(*code).saturating_neg())));
        }
        _ => {}
    }
    let Some((_, least)) = LEAST.iter().find(|(known, _)| *known == kind) else { return Ok(None) };
    if payload.len() < *least {
        return Err(MessageError(format!("a message of type {kind} with {} octets", payload.len())));
    }
    let message = XfrmMessage::parse_with_param(payload, kind).map_err(|error| MessageError(error.to_string()))?;
    Ok(match message {
        XfrmMessage::AddSa(message) | XfrmMessage::UpdateSa(message) => sa(&message.user_sa_info, message.nlas),
        XfrmMessage::DeleteSa(message) => {
            let id = message.user_sa_id;
            erase(message.nlas);
            match (id.proto, address(&id.daddr, id.family)) {
                (ESP, Some(dst)) => Some(Event::Deleted(SaId { spi: Spi(id.spi), dst })),
                _ => None,
            }
        }
        XfrmMessage::Expire(message) => {
            let hard = message.expire.hard != 0;
            ids(&message.expire.state).map(|(id, _)| Event::Expired { id, hard })
        }
        XfrmMessage::FlushSa(message) if matches!(message.protocol, 0 | ESP | 255) => Some(Event::Flushed),
        XfrmMessage::AddPolicy(message) | XfrmMessage::UpdatePolicy(message) => {
            Policy::new(&message.user_policy_info, &message.nlas).map(|policy| Event::Policy(Box::new(policy)))
        }
        XfrmMessage::DeletePolicy(message) => {
            // One that was deleted by its index is told by that, and behind it as a whole.
            let whole = message.nlas.iter().find_map(|attribute| match attribute {
                XfrmAttrs::PolicyInfo(info) => Some((info.direction, info.selector)),
                _ => None,
            });
            let (direction, selector) =
                whole.unwrap_or((message.user_policy_id.direction, message.user_policy_id.selector));
            PolicyId::new(direction, &selector).map(Event::PolicyDeleted)
        }
        XfrmMessage::FlushPolicy(_) => Some(Event::PoliciesFlushed),
        _ => None,
    })
}

/// An SA, or the reservation of an SPI: that has no algorithms yet. None if it isn't ESP.
fn sa(info: &UserSaInfo, attributes: Vec<XfrmAttrs>) -> Option<Event> {
    let (id, src) = ids(info)?;
    let known = attributes.iter().any(|attribute| {
        matches!(
            attribute,
            XfrmAttrs::EncryptionAlgAead(_) | XfrmAttrs::EncryptionAlg(_) | XfrmAttrs::AuthenticationAlgTrunc(_)
        )
    });
    if !known {
        erase(attributes);
        return Some(Event::Larval { id, src: Some(src).filter(|src| !src.is_unspecified()) });
    }
    let spec = spec(info, id, src, &attributes);
    let peer_port = attributes.iter().find_map(|attribute| match attribute {
        XfrmAttrs::EncapsulationTemplate(template) => Some(template.encap_dport),
        _ => None,
    });
    let bound = is_bound(&attributes);
    erase(attributes);
    Some(Event::Mature(Box::new(Sa {
        id,
        src,
        added_s: info.lifetime_cur.add_time,
        reqid: info.reqid,
        used: info.lifetime_cur.packets,
        peer_port,
        bound,
        spec,
    })))
}

/// Whether the kernel asks an SA or a policy with these only of some packets: those of a mark, or of an xfrm interface.
pub(super) fn is_bound(attributes: &[XfrmAttrs]) -> bool {
    attributes.iter().any(|attribute| match attribute {
        XfrmAttrs::IfId(interface) => *interface != 0,
        XfrmAttrs::Mark(mark) => mark.mask != 0,
        _ => false,
    })
}

/// What an SA is found by, and its source. None if it isn't ESP, or of no known address family.
fn ids(info: &UserSaInfo) -> Option<(SaId, IpAddr)> {
    let dst = address(&info.id.daddr, info.family)?;
    let src = address(&info.saddr, info.family)?;
    (info.id.proto == ESP).then_some((SaId { spi: Spi(info.id.spi), dst }, src))
}

fn spec(info: &UserSaInfo, id: SaId, src: IpAddr, attributes: &[XfrmAttrs]) -> Result<SaSpec, String> {
    let mode = match info.mode {
        XFRM_MODE_TRANSPORT => "transport",
        XFRM_MODE_TUNNEL => "tunnel",
        other => return Err(format!("nf-core has tunnel and transport mode, not XFRM's mode {other}")),
    };
    let (mut window, mut encap) = (u32::from(info.replay_window), "none");
    for attribute in attributes {
        match attribute {
            XfrmAttrs::ReplayStateEsn(replay) => window = replay.replay_window,
            XfrmAttrs::EncapsulationTemplate(template) if template.encap_type == UDP_ENCAP_ESPINUDP => encap = "udp",
            XfrmAttrs::EncapsulationTemplate(template) => {
                return Err(format!(
                    "nf-core has ESP in UDP (RFC 3948), not XFRM's encapsulation {}",
                    template.encap_type
                ));
            }
            _ => {}
        }
    }
    let transform = transform(attributes)?;
    Ok(SaSpec {
        spi: id.spi.0.to_string(),
        direction: Direction::In.to_string(),
        src: src.to_string(),
        dst: id.dst.to_string(),
        mode: mode.to_owned(),
        alg: transform.alg.to_owned(),
        key: transform.key,
        key_file: None,
        auth: transform.auth.map(str::to_owned),
        auth_key: transform.auth_key,
        esn: info.flags & XFRM_STATE_ESN != 0,
        // A window that nf-core has, no smaller than the one that was asked for if there is one.
        replay_window: if window == 0 { 0 } else { window.clamp(32, 65_536) },
        encap: encap.to_owned(),
        peer_port: None,
        follows: None,
        df: None,
        path_mtu: None,
        selectors: selectors(&info.selector)?,
        peer: None,
        lifetime: lifetime(&info.lifetime_cfg),
    })
}

/// Octets and packets, which the kernel doesn't see. It counts the seconds itself.
fn lifetime(limits: &LifetimeConfig) -> Lifetime {
    // XFRM_INF, and what no traffic reaches.
    let limit = |limit: u64| Some(limit).filter(|limit| (1..=i64::MAX as u64).contains(limit));
    let (bytes, packets) = (limit(limits.hard_byte_limit), limit(limits.hard_packet_limit));
    let below = |soft: Option<u64>, hard: Option<u64>| soft.filter(|soft| hard.is_none_or(|hard| *soft < hard));
    Lifetime {
        soft: Limits {
            bytes: below(limit(limits.soft_byte_limit), bytes),
            packets: below(limit(limits.soft_packet_limit), packets),
            seconds: None,
        },
        hard: Limits { bytes, packets, seconds: None },
    }
}

fn selectors(selector: &Selector) -> Result<SelectorSpec, String> {
    let [src, dst] = ends(selector)?.map(|end| end.into_iter().collect());
    Ok(SelectorSpec { src, dst })
}

/// Source and destination of a selector, in `[[sa]] selectors`' words. An end that leaves everything open is none.
pub(super) fn ends(selector: &Selector) -> Result<[Option<String>; 2], String> {
    let end = |address_of: &Address, length: u8, port: u16, mask: u16| {
        let upper = upper(selector.proto, port, mask)?;
        if length == 0 && upper.is_any() {
            return Ok(None);
        }
        let address = address(address_of, selector.family).ok_or("its selector is of no known address family")?;
        Ok::<_, String>(Some(format!("{address}/{length}{upper}")))
    };
    Ok([
        end(&selector.saddr, selector.prefixlen_s, selector.sport, selector.sport_mask)?,
        end(&selector.daddr, selector.prefixlen_d, selector.dport, selector.dport_mask)?,
    ])
}

/// The kernel masks ports: a mask of leading ones makes a range of it.
fn upper(protocol: u8, port: u16, mask: u16) -> Result<Upper, String> {
    let range = (mask.leading_ones() == mask.count_ones()).then_some(port & mask..=port | !mask);
    let upper = range.and_then(|ports| Upper::new(protocol, ports));
    upper.ok_or_else(|| {
        format!("its selector has port {port} under mask {mask:#06x} of protocol {protocol}, which nf-core can't check")
    })
}

pub(super) fn address(octets: &Address, family: u16) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::V4(octets.to_ipv4())),
        AF_INET6 => Some(IpAddr::V6(octets.to_ipv6())),
        _ => None,
    }
}

/// The crate doesn't erase keys.
fn erase(attributes: Vec<XfrmAttrs>) {
    for attribute in attributes {
        match attribute {
            XfrmAttrs::EncryptionAlgAead(mut alg) => alg.alg_key.zeroize(),
            XfrmAttrs::EncryptionAlg(mut alg) | XfrmAttrs::AuthenticationAlg(mut alg) => alg.alg_key.zeroize(),
            XfrmAttrs::AuthenticationAlgTrunc(mut alg) => alg.alg_key.zeroize(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage};
    use netlink_packet_xfrm::monitor::ExpireMessage;
    use netlink_packet_xfrm::state::{DelGetMessage, FlushMessage, ModifyMessage};
    use netlink_packet_xfrm::{
        Alg, AlgAead, AlgAuth, EncapTmpl, Id, Lifetime as Used, ReplayEsn, UserExpire, UserPolicyInfo, UserSaId,
        UserTemplate, policy,
    };
    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> [u8; 64] {
        let mut octets = [0; 64];
        octets[..name.len()].copy_from_slice(name.as_bytes());
        octets
    }

    fn ip(text: &str) -> Address {
        Address::from_ip(&text.parse().unwrap())
    }

    fn info(change: impl FnOnce(&mut UserSaInfo)) -> UserSaInfo {
        let mut info = UserSaInfo {
            id: Id { daddr: ip("10.10.1.2"), spi: 0xB761_863E, proto: ESP },
            saddr: ip("10.1.1.1"),
            family: AF_INET,
            mode: XFRM_MODE_TUNNEL,
            replay_window: 32,
            lifetime_cur: Used { add_time: 1_700_000_000, ..Used::default() },
            ..UserSaInfo::default()
        };
        change(&mut info);
        info
    }

    fn gcm() -> XfrmAttrs {
        XfrmAttrs::EncryptionAlgAead(AlgAead {
            alg_name: named("rfc4106(gcm(aes))"),
            alg_key_len: 160,
            alg_icv_len: 128,
            alg_key: (1..=20).collect(),
        })
    }

    /// Messages as the kernel would send them, in one datagram.
    fn datagram(messages: Vec<XfrmMessage>) -> Vec<u8> {
        let mut all = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), message.into());
            message.finalize();
            let mut octets = vec![0; message.buffer_len().next_multiple_of(4)];
            message.serialize(&mut octets);
            all.extend(octets);
        }
        all
    }

    fn new_sa(info: UserSaInfo, nlas: Vec<XfrmAttrs>) -> XfrmMessage {
        XfrmMessage::AddSa(ModifyMessage { user_sa_info: info, nlas })
    }

    fn only(message: XfrmMessage) -> Event {
        let mut events = read(&datagram(vec![message])).unwrap();
        assert_eq!(events.len(), 1);
        events.remove(0)
    }

    fn spec_of(message: XfrmMessage) -> Result<SaSpec, String> {
        match only(message) {
            Event::Mature(sa) => sa.spec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_sa_comes_with_all_that_nf_core_needs() {
        let esn = XfrmAttrs::ReplayStateEsn(ReplayEsn {
            bmp_len: 4,
            replay_window: 128,
            bmp: vec![0; 4],
            ..ReplayEsn::default()
        });
        let encap = XfrmAttrs::EncapsulationTemplate(EncapTmpl {
            encap_type: UDP_ENCAP_ESPINUDP,
            encap_sport: 4500,
            encap_dport: 4500,
            ..EncapTmpl::default()
        });
        let info = info(|info| {
            info.flags = XFRM_STATE_ESN;
            info.lifetime_cfg = LifetimeConfig {
                soft_byte_limit: u64::MAX,
                hard_byte_limit: u64::MAX,
                soft_packet_limit: 900,
                hard_packet_limit: 1000,
                hard_add_expires_seconds: 3600,
                ..LifetimeConfig::default()
            };
            info.selector = Selector {
                family: AF_INET,
                saddr: ip("192.168.0.0"),
                prefixlen_s: 16,
                daddr: ip("10.2.0.0"),
                prefixlen_d: 24,
                proto: 6,
                dport: 0x1F90,
                dport_mask: 0xFFF0,
                ..Selector::default()
            };
        });
        let Event::Mature(sa) = only(new_sa(info, vec![gcm(), encap, esn])) else { panic!("not an SA") };
        assert_eq!(
            (sa.id.spi, sa.id.dst, sa.src),
            (Spi(0xB761_863E), "10.10.1.2".parse().unwrap(), "10.1.1.1".parse().unwrap())
        );
        assert_eq!(sa.added_s, 1_700_000_000);
        let spec = serde_json::to_value(sa.spec.unwrap()).unwrap();
        let key: String = (1..=20).map(|octet| format!("{octet:02x}")).collect();
        let wanted = serde_json::json!({
            "spi": "3076621886", "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "alg": "aes-gcm-16", "key": key,
            "esn": true, "replay_window": 128, "encap": "udp",
            "selectors": {"src": ["192.168.0.0/16[tcp]"], "dst": ["10.2.0.0/24[tcp/8080-8095]"]},
            "lifetime": {"soft": {"packets": 900}, "hard": {"packets": 1000}},
        });
        assert_eq!(spec, wanted);
    }

    #[test]
    fn ipv6_transport_mode_and_a_separate_mac() {
        let auth = XfrmAttrs::AuthenticationAlgTrunc(AlgAuth {
            alg_name: named("hmac(sha256)"),
            alg_key_len: 256,
            alg_trunc_len: 128,
            alg_key: vec![7; 32],
        });
        let cipher =
            XfrmAttrs::EncryptionAlg(Alg { alg_name: named("cbc(aes)"), alg_key_len: 128, alg_key: vec![9; 16] });
        let info = info(|info| {
            info.id.daddr = ip("2001:db8::2");
            info.saddr = ip("2001:db8::1");
            info.family = AF_INET6;
            info.mode = XFRM_MODE_TRANSPORT;
            info.replay_window = 0;
        });
        let spec =
            spec_of(XfrmMessage::UpdateSa(ModifyMessage { user_sa_info: info, nlas: vec![auth, cipher] })).unwrap();
        assert_eq!(
            (spec.src.as_str(), spec.dst.as_str(), spec.mode.as_str()),
            ("2001:db8::1", "2001:db8::2", "transport")
        );
        assert_eq!(
            (spec.alg.as_str(), spec.auth.as_deref(), spec.replay_window),
            ("aes-cbc", Some("hmac-sha256-128"), 0)
        );
        assert!(spec.validate().is_ok());
    }

    #[test]
    fn an_spi_that_is_reserved_has_no_algorithms() {
        let Event::Larval { id, src } = only(new_sa(info(|_| ()), Vec::new())) else { panic!("not larval") };
        assert_eq!((id.spi, src), (Spi(0xB761_863E), Some("10.1.1.1".parse().unwrap())));
        let Event::Larval { src, .. } = only(new_sa(info(|info| info.saddr = ip("0.0.0.0")), Vec::new())) else {
            panic!("not larval")
        };
        assert_eq!(src, None);
    }

    #[test]
    fn ends_are_told() {
        let id = UserSaId { daddr: ip("10.10.1.2"), spi: 0x100, family: AF_INET, proto: ESP };
        let delete =
            XfrmMessage::DeleteSa(DelGetMessage { user_sa_id: id, nlas: vec![XfrmAttrs::SaInfo(info(|_| ()))] });
        assert!(matches!(only(delete), Event::Deleted(id) if id.spi == Spi(0x100)));
        for hard in [0, 1] {
            let expire = ExpireMessage { expire: UserExpire { state: info(|_| ()), hard } };
            let event = only(XfrmMessage::Expire(expire));
            assert!(matches!(event, Event::Expired { hard: told, .. } if told == (hard == 1)), "{event:?}");
        }
        assert!(matches!(only(XfrmMessage::FlushSa(FlushMessage { protocol: 0 })), Event::Flushed));
    }

    #[test]
    fn what_is_not_esp_is_left_out() {
        let ah = info(|info| info.id.proto = 51);
        let messages =
            vec![new_sa(ah, vec![gcm()]), new_sa(info(|_| ()), vec![gcm()]), XfrmMessage::Other((0x99, vec![1, 2, 3]))];
        assert_eq!(read(&datagram(messages)).unwrap().len(), 1);
    }

    #[test]
    fn what_nf_core_does_not_have_is_named() {
        let refused = |change: fn(&mut UserSaInfo), nlas| spec_of(new_sa(info(change), nlas)).unwrap_err();
        assert!(refused(|info| info.mode = 4, vec![gcm()]).contains("not XFRM's mode 4"));
        assert!(refused(|info| info.selector.dport_mask = 0xFFFF, vec![gcm()]).contains("of protocol 0"));
        let tcp = XfrmAttrs::EncapsulationTemplate(EncapTmpl { encap_type: 7, ..EncapTmpl::default() });
        assert!(refused(|_| (), vec![gcm(), tcp]).contains("not XFRM's encapsulation 7"));
    }

    #[test]
    fn no_key_is_shown() {
        let event = only(new_sa(info(|_| ()), vec![gcm()]));
        let shown = format!("{event:?}");
        assert!(shown.contains("secret") && !shown.contains("0102") && !shown.contains("[1, 2"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_refused(octets in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&octets);
        }

        /// Messages of the kinds that are read, cut off and changed anywhere.
        #[test]
        fn damaged_messages_are_read_or_refused(
            kind in 0usize..6, cut in 0usize..700, changes in prop::collection::vec((0usize..700, any::<u8>()), 0..8),
        ) {
            let id = UserSaId { daddr: ip("10.10.1.2"), spi: 0x100, family: AF_INET, proto: ESP };
            let message = match kind {
                0 => new_sa(info(|_| ()), vec![gcm(), XfrmAttrs::ReplayStateEsn(ReplayEsn::default())]),
                1 => XfrmMessage::DeleteSa(DelGetMessage { user_sa_id: id, nlas: vec![XfrmAttrs::SaInfo(info(|_| ()))] }),
                2 => {
                    let expire = UserExpire { state: info(|_| ()), hard: 1 };
                    XfrmMessage::Expire(ExpireMessage { expire })
                }
                3 => XfrmMessage::FlushSa(FlushMessage { protocol: 0 }),
                4 => XfrmMessage::AddPolicy(policy::ModifyMessage {
                    nlas: vec![XfrmAttrs::Template(vec![UserTemplate::default(); 2]), XfrmAttrs::IfId(1)],
                    ..policy::ModifyMessage::default()
                }),
                _ => XfrmMessage::DeletePolicy(policy::DelGetMessage {
                    nlas: vec![XfrmAttrs::PolicyInfo(UserPolicyInfo::default())],
                    ..policy::DelGetMessage::default()
                }),
            };
            let mut octets = datagram(vec![message]);
            for (at, value) in changes {
                if let Some(octet) = octets.get_mut(at) {
                    *octet = value;
                }
            }
            octets.truncate(cut);
            // A length that says so makes a whole message of one that is cut off.
            for shortened in [false, true] {
                if let (true, Some(length)) = (shortened, octets.len().try_into().ok().map(u32::to_ne_bytes)) {
                    octets.iter_mut().zip(length).for_each(|(octet, length)| *octet = length);
                }
                let _ = read(&octets);
            }
        }
    }
}
