//! Arbitrary messages, and recorded ones.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part")]

pub mod recording;

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use ikev2::wire::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn octets(max: usize) -> impl Strategy<Value = Cow<'static, [u8]>> {
    vec(any::<u8>(), 0..=max).prop_map(Cow::Owned)
}

fn spi() -> impl Strategy<Value = Spi> {
    prop_oneof![
        Just(Spi::None),
        any::<u32>().prop_map(|spi| Spi::Child(ChildSpi(spi))),
        any::<[u8; 8]>().prop_map(|spi| Spi::Ike(IkeSpi(spi))),
        vec(any::<u8>(), 9..=255).prop_map(|octets| Spi::Other(octets.into())),
        vec(any::<u8>(), 1..=3).prop_map(|octets| Spi::Other(octets.into())),
    ]
}

fn transform_id() -> impl Strategy<Value = TransformId> {
    prop_oneof![
        any::<u16>().prop_map(|id| TransformId::Encr(EncrId(id))),
        any::<u16>().prop_map(|id| TransformId::Prf(PrfId(id))),
        any::<u16>().prop_map(|id| TransformId::Integ(IntegId(id))),
        any::<u16>().prop_map(|id| TransformId::Dh(DhGroup(id))),
        any::<u16>().prop_map(|id| TransformId::Esn(EsnId(id))),
        (6_u8.., any::<u16>()).prop_map(|(kind, id)| TransformId::Other(TransformType(kind), id)),
    ]
}

fn attribute() -> impl Strategy<Value = Attribute> {
    let value = prop_oneof![
        any::<u16>().prop_map(AttributeValue::Short),
        vec(any::<u8>(), 0..40).prop_map(|octets| AttributeValue::Long(octets.into())),
    ];
    // 14 is the key length, which is known.
    (15_u16..0x8000, value).prop_map(|(kind, value)| Attribute { kind: AttributeType(kind), value })
}

fn transform() -> impl Strategy<Value = Transform> {
    (transform_id(), any::<Option<u16>>(), vec(attribute(), 0..MAX_ATTRIBUTES))
        .prop_map(|(id, key_length, unknown_attributes)| Transform { id, key_length, unknown_attributes })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    (any::<u8>(), any::<u8>(), spi(), vec(transform(), 0..12)).prop_map(|(number, protocol, spi, transforms)| {
        Proposal { number, protocol: ProtocolId(protocol), spi, transforms }
    })
}

fn ip_selector() -> impl Strategy<Value = IpSelector> {
    let addresses = prop_oneof![
        any::<(u32, u32)>()
            .prop_map(|(a, b)| { AddressRange::V4(Ipv4Addr::from_bits(a.min(b)), Ipv4Addr::from_bits(a.max(b))) }),
        any::<(u128, u128)>()
            .prop_map(|(a, b)| { AddressRange::V6(Ipv6Addr::from_bits(a.min(b)), Ipv6Addr::from_bits(a.max(b))) }),
    ];
    (addresses, any::<u8>(), any::<u16>(), any::<u16>()).prop_map(|(addresses, protocol, start_port, end_port)| {
        IpSelector { addresses, protocol, start_port, end_port }
    })
}

fn ts() -> impl Strategy<Value = Ts> {
    let other = (9_u8.., any::<u8>(), vec(any::<u8>(), 0..40))
        .prop_map(|(kind, reserved, data)| TrafficSelector::Other { kind: TsType(kind), reserved, data: data.into() });
    vec(prop_oneof![ip_selector().prop_map(TrafficSelector::Ip), other], 1..20).prop_map(Ts)
}

fn delete() -> impl Strategy<Value = Delete> {
    let children = (2_u8..=3, vec(any::<u32>(), 0..40)).prop_map(|(protocol, spis)| Delete::Children {
        protocol: ProtocolId(protocol),
        spis: spis.into_iter().map(ChildSpi).collect(),
    });
    let other = (4_u8.., 0_u8..9, 0_u16..9).prop_flat_map(|(protocol, spi_size, count)| {
        vec(any::<u8>(), usize::from(spi_size) * usize::from(count)).prop_map(move |spis| Delete::Other {
            protocol: ProtocolId(protocol),
            spi_size,
            count,
            spis: spis.into(),
        })
    });
    prop_oneof![Just(Delete::IkeSa), children, other]
}

fn notify() -> impl Strategy<Value = Notify<'static>> {
    let kind = prop_oneof![any::<u16>(), 0_u16..50, 16384_u16..16450];
    (any::<u8>(), spi(), kind, octets(300)).prop_map(|(protocol, spi, kind, data)| Notify {
        protocol: ProtocolId(protocol),
        spi,
        kind: NotifyType(kind),
        data,
    })
}

fn id() -> impl Strategy<Value = Id<'static>> {
    (any::<u8>(), octets(80)).prop_map(|(kind, data)| Id { kind: IdType(kind), data })
}

fn cp() -> impl Strategy<Value = Cp<'static>> {
    let attribute =
        (0_u16..0x8000, octets(40)).prop_map(|(kind, value)| CfgAttribute { kind: CfgAttributeType(kind), value });
    (any::<u8>(), vec(attribute, 0..20)).prop_map(|(kind, attributes)| Cp { kind: CfgType(kind), attributes })
}

/// Any payload.
pub fn payload() -> impl Strategy<Value = Payload<'static>> {
    // Neither 33 to 48, which have types here, nor SK, SKF and none.
    let unknown = prop_oneof![1_u8..33, 49_u8..53, 54_u8..];
    prop_oneof![
        vec(proposal(), 1..8).prop_map(|proposals| Payload::Sa(Sa { proposals })),
        (any::<u16>(), octets(600)).prop_map(|(group, data)| Payload::Ke(Ke { group: DhGroup(group), data })),
        id().prop_map(Payload::IdI),
        id().prop_map(Payload::IdR),
        (any::<u8>(), octets(900)).prop_map(|(kind, data)| Payload::Cert(Cert::new(CertEncoding(kind), data))),
        (any::<u8>(), octets(90)).prop_map(|(kind, data)| Payload::CertReq(CertReq::new(CertEncoding(kind), data))),
        (any::<u8>(), octets(300)).prop_map(|(method, data)| Payload::Auth(Auth::new(AuthMethod(method), data))),
        vec(any::<u8>(), 16..=256).prop_map(|octets| Payload::Nonce(Nonce::new(octets))),
        notify().prop_map(Payload::Notify),
        delete().prop_map(Payload::Delete),
        octets(60).prop_map(Payload::VendorId),
        ts().prop_map(Payload::TsI),
        ts().prop_map(Payload::TsR),
        cp().prop_map(Payload::Cp),
        (any::<u8>(), any::<u8>(), octets(90)).prop_map(|(code, identifier, data)| Payload::Eap(Eap {
            code: EapCode(code),
            identifier,
            data
        })),
        (unknown, octets(60)).prop_map(|(kind, body)| Payload::Unknown(Unknown { kind: PayloadType(kind), body })),
    ]
}

/// Any payloads that may be in a message together.
pub fn payloads() -> impl Strategy<Value = Payloads<'static>> {
    vec(payload(), 0..12).prop_map(|list| {
        let repeats =
            [PayloadType::CERT, PayloadType::CERTREQ, PayloadType::NOTIFY, PayloadType::DELETE, PayloadType::VENDOR_ID];
        let mut kept: Vec<Payload<'static>> = Vec::new();
        for payload in list {
            let may_repeat = repeats.contains(&payload.kind()) || matches!(payload, Payload::Unknown(_));
            if may_repeat || kept.iter().all(|other| other.kind() != payload.kind()) {
                kept.push(payload);
            }
        }
        kept.into()
    })
}

/// Any header of IKEv2.
pub fn header() -> impl Strategy<Value = Header> {
    (any::<[u8; 8]>(), any::<[u8; 8]>(), 0_u8..16, any::<u8>(), any::<[bool; 3]>(), any::<u32>()).prop_map(
        |(initiator, responder, minor, exchange, [initiated, higher_version, response], message_id)| Header {
            initiator_spi: IkeSpi(initiator),
            responder_spi: IkeSpi(responder),
            version: Version { major: 2, minor },
            exchange: ExchangeType(exchange),
            flags: Flags { initiator: initiated, higher_version, response },
            message_id: MessageId(message_id),
        },
    )
}
