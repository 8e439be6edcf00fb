//! Messages that scapy 2.8.0 made (`scapy.contrib.ikev2`), of kinds that the recordings of strongSwan don't have. Each has to
//! be read as what scapy was told to make, and to be written again to the octet.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use ikev2::wire::*;

const INITIATOR: IkeSpi = IkeSpi(*b"\x01\x02\x03\x04\x05\x06\x07\x08");
const RESPONDER: IkeSpi = IkeSpi(*b"\x11\x12\x13\x14\x15\x16\x17\x18");
const FROM_INITIATOR: Flags = Flags { initiator: true, higher_version: false, response: false };
const RESPONSE: Flags = Flags { initiator: false, higher_version: false, response: true };

fn header(exchange: ExchangeType, flags: Flags, message_id: u32) -> Header {
    let message_id = MessageId(message_id);
    Header { initiator_spi: INITIATOR, responder_spi: RESPONDER, version: Version::V2, exchange, flags, message_id }
}

fn check(message: &str, header: Header, payloads: Vec<Payload<'_>>) {
    let octets = hex::decode(message).unwrap();
    let payloads = Payloads::from(payloads);
    let parsed = Message::parse(&octets).unwrap();
    assert_eq!((parsed.header, &parsed.payloads, parsed.sk), (header, &payloads, None));
    assert_eq!(hex::encode(emit(&header, &payloads).unwrap()), message);
}

/// `IKEv2_Notify(proto=0, type=11, notify=bytes.fromhex('b761863e'))`
#[test]
fn invalid_spi_carries_the_spi_as_data() {
    let notify = Notify::invalid_spi(ChildSpi(0xB761_863E));
    assert_eq!(notify.spi_of_packet(), Some(ChildSpi(3_076_621_886)));
    check(
        "010203040506070811121314151617182920250800000007000000280000000c0000000bb761863e",
        header(ExchangeType::INFORMATIONAL, FROM_INITIATOR, 7),
        vec![Payload::Notify(notify)],
    );
}

/// `IKEv2_Delete(proto=3, SPIsize=4, SPInum=2, SPI=[b'\xb7\x61\x86\x3e', b'\x00\x00\x10\x00'])`
#[test]
fn two_child_sas_are_deleted() {
    let spis = vec![ChildSpi(0xB761_863E), ChildSpi(0x1000)];
    check(
        "010203040506070811121314151617182a202528000000090000002c0000001003040002b761863e00001000",
        header(ExchangeType::INFORMATIONAL, Flags { initiator: true, ..RESPONSE }, 9),
        vec![Payload::Delete(Delete::Children { protocol: ProtocolId::ESP, spis })],
    );
}

/// `IKEv2_Notify(type=16390, notify=b'cookie')`
#[test]
fn a_cookie_is_asked_for() {
    check(
        "0102030405060708000000000000000029202220000000000000002a0000000e00004006636f6f6b6965",
        Header { responder_spi: IkeSpi::ZERO, ..header(ExchangeType::IKE_SA_INIT, RESPONSE, 0) },
        vec![Payload::Notify(Notify::with_data(NotifyType::COOKIE, &b"cookie"[..]))],
    );
}

/// `IKEv2_CP(CFGType=1, attributes=[ConfigurationAttribute(type=1, length=0), ConfigurationAttribute(type=3, length=4,
/// value='192.0.2.53')])`
#[test]
fn an_address_is_asked_for() {
    let attributes = vec![
        CfgAttribute { kind: CfgAttributeType::INTERNAL_IP4_ADDRESS, value: (&[][..]).into() },
        CfgAttribute { kind: CfgAttributeType::INTERNAL_IP4_DNS, value: (&[192, 0, 2, 53][..]).into() },
    ];
    check(
        "010203040506070811121314151617182f202308000000010000003000000014010000000001000000030004c0000235",
        header(ExchangeType::IKE_AUTH, FROM_INITIATOR, 1),
        vec![Payload::Cp(Cp { kind: CfgType::REQUEST, attributes })],
    );
}

/// `IKEv2_EAP(load=bytes.fromhex('0103000501'))`
#[test]
fn eap_asks_for_an_identity() {
    check(
        "01020304050607081112131415161718302023200000000200000025000000090103000501",
        header(ExchangeType::IKE_AUTH, RESPONSE, 2),
        vec![Payload::Eap(Eap { code: EapCode::REQUEST, identifier: 3, data: (&[1][..]).into() })],
    );
}

/// `IKEv2_TSi(traffic_selector=[IPv4TrafficSelector(starting_address_v4='10.0.0.0', ending_address_v4='10.0.0.255',
/// IP_protocol_ID=17, start_port=53, end_port=53)]) / IKEv2_TSr(traffic_selector=[IPv6TrafficSelector(
/// length=40, starting_address_v6='2001:db8::', ending_address_v6='2001:db8::ffff')])`
#[test]
fn traffic_selectors_of_both_families() {
    let lan = AddressRange::prefix([10, 0, 0, 7].into(), 24).unwrap();
    let dns = IpSelector { addresses: lan, protocol: 17, start_port: 53, end_port: 53 };
    let v6 = IpSelector::any(AddressRange::V6("2001:db8::".parse().unwrap(), "2001:db8::ffff".parse().unwrap()));
    assert_eq!(dns.to_string(), "10.0.0.0-10.0.0.255[17/53-53]");
    check(
        "010203040506070811121314151617182c20240800000003000000642d0000180100000007110010003500350a0000000a0000ff\
         0000003001000000080000280000ffff20010db800000000000000000000000020010db800000000000000000000ffff",
        header(ExchangeType::CREATE_CHILD_SA, FROM_INITIATOR, 3),
        vec![Payload::TsI(Ts(vec![TrafficSelector::Ip(dns)])), Payload::TsR(Ts(vec![TrafficSelector::Ip(v6)]))],
    );
}

/// `IKEv2_CERTREQ(cert_encoding=4, cert_authority=bytes(range(20))) / IKEv2_VendorID(vendorID=b'vendor')`
#[test]
fn certificates_are_asked_for_by_a_vendor() {
    let authority: Vec<u8> = (0..20).collect();
    check(
        "0102030405060708111213141516171826202220000000000000003f2b00001904000102030405060708090a0b0c0d0e0f10111213\
         0000000a76656e646f72",
        header(ExchangeType::IKE_SA_INIT, RESPONSE, 0),
        vec![
            Payload::CertReq(CertReq::new(CertEncoding::X509_SIGNATURE, authority)),
            Payload::VendorId((&b"vendor"[..]).into()),
        ],
    );
}

/// `IKEv2_Encrypted_Fragment(next_payload=35, frag_number=1, frag_total=3, load=bytes(range(24)))`
#[test]
fn a_fragment_is_taken_apart() {
    let message = "0102030405060708111213141516171835202308000000010000003c\
                   2300002000010003000102030405060708090a0b0c0d0e0f1011121314151617";
    let octets = hex::decode(message).unwrap();
    let sk = Message::parse(&octets).unwrap().sk.unwrap();
    assert_eq!((sk.first, sk.fragment), (PayloadType::IDI, FragmentId::new(1, 3)));
    let parts = sk.parts(SkLayout { iv: 8, block: 1, icv: 12 }).unwrap();
    assert_eq!(parts.aad, &octets[..36]);
    assert_eq!(parts.iv, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(parts.ciphertext, [8, 9, 10, 11]);
    assert_eq!(parts.icv, [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]);
    assert_eq!(parts.authenticated, &octets[..48]);
}
