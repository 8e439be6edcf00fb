//! What is refused, how that reads in a log, and which notify answers it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use ikev2::wire::*;

/// A message of IKE_AUTH with this first payload and these octets after the header.
fn message(first: PayloadType, payloads: &str) -> Vec<u8> {
    let payloads = hex::decode(payloads.replace(' ', "")).unwrap();
    let mut message = vec![0x5a; 16];
    message.extend([first.0, 0x20, ExchangeType::IKE_AUTH.0, 0x08, 0, 0, 0, 1]);
    message.extend((HEADER_LEN as u32 + payloads.len() as u32).to_be_bytes());
    message.extend(payloads);
    message
}

#[track_caller]
fn refused(message: &[u8], error: &str, notify: &Notify<'_>) {
    let found = Message::parse(message).unwrap_err();
    assert_eq!(found.to_string(), error);
    assert_eq!(&found.notify(), notify);
}

/// That a message is refused with INVALID_SYNTAX, and why.
#[track_caller]
fn syntax(first: PayloadType, payloads: &str, error: &str) {
    refused(&message(first, payloads), error, &Notify::new(NotifyType::INVALID_SYNTAX));
}

#[track_caller]
fn taken(first: PayloadType, payloads: &str) {
    Message::parse(&message(first, payloads)).unwrap();
}

#[test]
fn another_version_is_refused_though_its_header_can_be_read() {
    let mut other = message(PayloadType::NONE, "");
    other[17] = 0x30;
    let header = Header::parse(&other).unwrap();
    assert_eq!((header.version.major, header.initiator_spi), (3, IkeSpi([0x5a; 8])));
    let answer = Notify::new(NotifyType::INVALID_MAJOR_VERSION);
    refused(&other, "IKE header: IKE version 3.0, where only 2 is spoken", &answer);
    other[17] = 0x10;
    refused(&other, "IKE header: IKE version 1.0, where only 2 is spoken", &answer);
    other[17] = 0x2f;
    Message::parse(&other).unwrap();
}

#[test]
fn a_header_has_to_tell_the_length() {
    let whole = message(PayloadType::NONE, "");
    let answer = Notify::new(NotifyType::INVALID_SYNTAX);
    refused(&whole[..27], "IKE header: 4 more octets are needed where 3 are left", &answer);
    let longer = [&whole[..], &[0]].concat();
    refused(&longer, "IKE header: a length of 28 octets is declared where 29 are there", &answer);
}

#[test]
fn an_unknown_payload_is_skipped_unless_it_is_critical() {
    let unknown = PayloadType(200);
    taken(unknown, "00 00 0006 abcd");
    let answer = Notify::with_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![200]);
    refused(
        &message(unknown, "00 80 0006 abcd"),
        "payload PayloadType(200): marked as critical, and its type is unknown",
        &answer,
    );
    // On a known type the bit means nothing (RFC 7296 3.2).
    taken(PayloadType::VENDOR_ID, "00 80 0006 abcd");
}

#[test]
fn a_chain_ends_where_the_message_ends() {
    let vendor = PayloadType::VENDOR_ID;
    syntax(vendor, "", "payload V: 1 more octets are needed where 0 are left");
    syntax(vendor, "00 00 00", "payload V: 2 more octets are needed where 1 are left");
    syntax(vendor, "00 00 0003", "payload V: a length of 3 octets is declared where 4 are there");
    syntax(vendor, "00 00 0007 abcd", "payload V: a length of 7 octets is declared where 4 to 6 are possible");
    syntax(vendor, "00 00 0006 abcd ef", "payloads: 1 octets follow after its end");
    syntax(vendor, "28 00 0004", "payload Ni, Nr: 1 more octets are needed where 0 are left");
}

#[test]
fn what_a_message_has_once_it_may_not_have_twice() {
    let auth = "00 00 0009 02000000 aa";
    syntax(PayloadType::AUTH, &format!("27 00 0009 02000000 aa {auth}"), "payload AUTH: more than one in a message");
    taken(PayloadType::NOTIFY, "29 00 0008 00004000 00 00 0008 00004000");
}

#[test]
fn a_message_has_so_many_payloads_and_no_more() {
    let notifies = |count: usize| {
        let mut payloads = "29 00 0008 00004000".repeat(count - 1);
        payloads.push_str("00 00 0008 00004000");
        payloads
    };
    taken(PayloadType::NOTIFY, &notifies(MAX_PAYLOADS));
    syntax(PayloadType::NOTIFY, &notifies(MAX_PAYLOADS + 1), "payloads: more than 256 payloads");
}

#[test]
fn sk_is_the_last_payload_and_never_inside_another() {
    // The type in its header is that of the first payload inside, not of one that follows.
    let sk = "23 00 0008 aaaaaaaa";
    taken(PayloadType::SK, sk);
    syntax(PayloadType::SK, &format!("{sk} 00 00 0004"), "payloads: 4 octets follow after its end");
    let inside = hex::decode("2300000400000004").unwrap();
    let error = Payloads::parse(PayloadType::SK, &inside).unwrap_err();
    assert_eq!(error.to_string(), "payload SK: it must be the last payload of a message that isn't encrypted yet");
}

#[test]
fn a_fragment_is_one_of_those_that_there_are() {
    let skf = PayloadType::SKF;
    taken(skf, "23 00 000c 0002 0002 aaaaaaaa");
    let error = "payload SKF: Fragment Number is 0, and has to be 1 up to Total Fragments";
    syntax(skf, "23 00 000c 0000 0002 aaaaaaaa", error);
    let error = "payload SKF: Fragment Number is 3, and has to be 1 up to Total Fragments";
    syntax(skf, "23 00 000c 0003 0002 aaaaaaaa", error);
    syntax(skf, "23 00 0006 0001", "payload SKF: 2 more octets are needed where 0 are left");
}

#[test]
fn an_encrypted_payload_has_room_for_what_the_cipher_needs() {
    let layout = SkLayout { iv: 8, block: 1, icv: 4 };
    for (octets, error) in [
        (7, Some("payload SK: 8 more octets are needed where 7 are left")),
        (12, Some("payload SK: 5 more octets are needed where 4 are left")),
        (13, None),
    ] {
        let message = message(PayloadType::SK, &format!("23 00 {:04x} {}", 4 + octets, "aa".repeat(octets)));
        let parts = Message::parse(&message).unwrap().sk.unwrap().parts(layout);
        assert_eq!(parts.err().map(|error| error.to_string()).as_deref(), error);
    }
    assert_eq!(strip_padding(&[1, 2, 0, 0, 2]), Ok(&[1, 2][..]));
    assert_eq!(strip_padding(&[0]), Ok(&[][..]));
    let error = "payload SK: Pad Length is 2, and has to be at most the number of octets before it";
    assert_eq!(strip_padding(&[0, 2]).unwrap_err().to_string(), error);
    let error = "payload SK: 1 more octets are needed where 0 are left";
    assert_eq!(strip_padding(&[]).unwrap_err().to_string(), error);
}

#[test]
fn proposals_agree_with_their_counts() {
    let sa = PayloadType::SA;
    // A proposal for IKE with PRF_HMAC_SHA2_256.
    let transform = "00 00 0008 02 00 0005";
    taken(sa, &format!("00 00 0014 00 00 0010 01 01 00 01 {transform}"));
    syntax(sa, "00 00 0004", "payload SA: number of proposals is 0, and has to be 1 or more");
    syntax(
        sa,
        &format!("00 00 0014 00 00 0010 01 01 00 02 {transform}"),
        "payload SA: Num Transforms is 2, and has to be the number of transforms that are there",
    );
    syntax(
        sa,
        &format!("00 00 0014 02 00 0010 01 01 00 01 {transform}"),
        "payload SA: Last Substruc is 2, and has to be 0, as none follows",
    );
    syntax(
        sa,
        &format!("00 00 001c 00 00 0018 01 01 00 02 {transform} {transform}"),
        "payload SA: Last Substruc is 0, and has to be 3, as another transform follows",
    );
    syntax(
        sa,
        &format!("00 00 0014 00 00 0011 01 01 00 01 {transform}"),
        "payload SA: a length of 17 octets is declared where 4 to 16 are possible",
    );
}

#[test]
fn proposals_are_limited() {
    let proposal = |transforms: usize| Proposal {
        number: 1,
        protocol: ProtocolId::ESP,
        spi: ChildSpi(0x1000).into(),
        transforms: vec![Transform::new(TransformId::Prf(PrfId::HMAC_SHA2_256)); transforms],
    };
    let parse = |proposals: Vec<Proposal>| {
        let chain = Payloads::from(vec![Payload::Sa(Sa { proposals })]).emit().unwrap();
        Payloads::parse(chain.first, &chain.octets).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(parse(vec![proposal(1); MAX_PROPOSALS]), Ok(()));
    assert_eq!(parse(vec![proposal(1); MAX_PROPOSALS + 1]), Err("payload SA: more than 64 proposals".into()));
    assert_eq!(parse(vec![proposal(255); 4]), Ok(()));
    assert_eq!(parse(vec![proposal(255); 5]), Err("payload SA: more than 1024 transforms".into()));

    let attributes = "800f0001".repeat(MAX_ATTRIBUTES + 1);
    let transform = format!("00 00 {:04x} 01 00 000c {attributes}", 8 + 4 * (MAX_ATTRIBUTES + 1));
    syntax(
        PayloadType::SA,
        &format!("00 00 {:04x} 00 00 {:04x} 01 01 00 01 {transform}", 12 + 28, 8 + 28),
        "payload SA: more than 4 attributes in a transform",
    );
}

#[test]
fn a_second_key_length_is_kept_as_unknown_so_that_the_transform_is_not_chosen() {
    let message = message(PayloadType::SA, "00 00 001c 00 00 0018 01 01 00 01 00 00 0010 01 00 000c 800e0100 800e0080");
    let parsed = Message::parse(&message).unwrap();
    let transform = &parsed.payloads.sa().unwrap().proposals[0].transforms[0];
    assert_eq!(transform.key_length, Some(256));
    assert_eq!(transform.unknown_attributes.len(), 1);
    assert_eq!(transform.to_string(), "ENCR_AES_CBC/256/unknown attribute");
}

#[test]
fn nonces_have_16_to_256_octets() {
    for (octets, taken) in [(15, false), (16, true), (256, true), (257, false)] {
        let payload = format!("00 00 {:04x} {}", 4 + octets, "aa".repeat(octets));
        assert_eq!(Message::parse(&message(PayloadType::NONCE, &payload)).is_ok(), taken, "{octets}");
    }
}

#[test]
fn selectors_are_ranges() {
    let tsi = PayloadType::TSI;
    syntax(tsi, "00 00 0008 00000000", "payload TSi: Number of TSs is 0, and has to be 1 or more");
    syntax(
        tsi,
        "00 00 0018 01000000 07 00 0010 0000 ffff 0a000001 0a000000",
        "payload TSi: a traffic selector reaches from 10.0.0.1 to 10.0.0.0, which is less",
    );
    // OPAQUE ports are the one range that is upside down on purpose (RFC 7296 3.13.1).
    taken(tsi, "00 00 0018 01000000 07 11 0010 ffff 0000 0a000000 0a000001");
    syntax(
        tsi,
        "00 00 0019 01000000 07 00 0011 0000 ffff 0a000000 0a000001 00",
        "payload TSi: 1 octets follow after its end",
    );
    // A kind that isn't known is kept and matches nothing.
    let message = message(tsi, "00 00 000e 01000000 0a 00 0006 abcd");
    assert_eq!(Message::parse(&message).unwrap().payloads.ts_i().unwrap().ip().count(), 0);
}

#[test]
fn a_delete_names_spis_of_the_protocols_size() {
    let delete = PayloadType::DELETE;
    taken(delete, "00 00 0008 01 00 0000");
    syntax(delete, "00 00 0010 01 08 0001 5a5a5a5a5a5a5a5a", "payload D: SPI Size is 8, and has to be 0 for an IKE SA");
    syntax(delete, "00 00 000a 03 02 0001 abcd", "payload D: SPI Size is 2, and has to be 4 for ESP and AH");
    syntax(delete, "00 00 000c 03 04 0002 00001000", "payload D: 8 more octets are needed where 4 are left");
    syntax(delete, "00 00 0010 03 04 0001 00001000 00001001", "payload D: 4 octets follow after its end");
}

/// Cisco CSCvd40554: a peer that answers such notifies with INVALID_SYNTAX tears down healthy SAs.
#[test]
fn notifies_are_taken_whatever_they_say() {
    for notify in [
        "00 00 000c 00 00 000b b761863e",         // INVALID_SPI without protocol and SPI
        "00 00 000c 03 00 000b b761863e",         // with a protocol and no SPI
        "00 00 000c 03 04 000b b761863e",         // with the SPI as SPI, and no data
        "00 00 0008 01 00 9c40",                  // of a type for private use
        "00 00 000b 07 03 4000 abcdef",           // of a protocol and an SPI size that nobody knows
        "00 00 0010 01 08 4000 5a5a5a5a5a5a5a5a", // about an IKE SA by its SPI
    ] {
        taken(PayloadType::NOTIFY, notify);
    }
    let error = "payload N: 4 more octets are needed where 2 are left";
    syntax(PayloadType::NOTIFY, "00 00 000a 03 04 000b abcd", error);
}

#[test]
fn eap_packets_have_the_length_that_they_declare() {
    taken(PayloadType::EAP, "00 00 0009 01030005 01");
    syntax(PayloadType::EAP, "00 00 0009 01030004 01", "payload EAP: 1 octets follow after its end");
    let error = "payload EAP: a length of 6 octets is declared where 4 to 5 are possible";
    syntax(PayloadType::EAP, "00 00 0009 01030006 01", error);
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let emit = |payload| Payloads::from(vec![payload]).emit().unwrap_err().to_string();
    let long = vec![0; 65536];
    assert_eq!(
        emit(Payload::VendorId(long.clone().into())),
        "can't send 65540 octets in a payload: the limit is 65535"
    );
    let any = TrafficSelector::Ip(IpSelector::any(AddressRange::prefix([0; 4].into(), 0).unwrap()));
    assert_eq!(emit(Payload::TsI(Ts(vec![any; 256]))), "can't send 256 traffic selectors: the limit is 255");
    let spis = vec![ChildSpi(1); 65536];
    assert_eq!(
        emit(Payload::Delete(Delete::Children { protocol: ProtocolId::ESP, spis })),
        "can't send 65536 SPIs to delete: the limit is 65535"
    );
}
