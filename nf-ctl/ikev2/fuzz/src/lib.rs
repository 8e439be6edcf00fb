//! What has to hold for any octets. A target panics where it doesn't.

pub mod peer;

use ikev2::wire::{
    FragmentId, HEADER_LEN, MAX_FRAGMENTS, Message, MessageId, PayloadType, Payloads, Reassembly, SkLayout, Unwanted,
    emit, strip_padding,
};

/// A datagram before anything was decrypted: what was read can be written, and is read as the same again; the parts of an
/// encrypted payload lie one after another and end with the datagram.
pub fn message(datagram: &[u8]) {
    let message = match Message::parse(datagram) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(error.notify().kind.is_error());
            return;
        }
    };
    let Some(sk) = message.sk else {
        let again = emit(&message.header, &message.payloads).expect("what was read can be written");
        assert_eq!(Message::parse(&again).as_ref(), Ok(&message));
        return;
    };
    for layout in [
        SkLayout { iv: 8, block: 1, icv: 16 },
        SkLayout { iv: 16, block: 16, icv: 12 },
        SkLayout { iv: 0, block: 1, icv: 0 },
        SkLayout { iv: usize::MAX, block: 1, icv: usize::MAX },
    ] {
        let Ok(parts) = sk.parts(layout) else { continue };
        assert_eq!((parts.iv.len(), parts.icv.len()), (layout.iv, layout.icv));
        assert!(parts.aad.len() >= HEADER_LEN + 4 && !parts.ciphertext.is_empty());
        assert_eq!([parts.aad, parts.iv, parts.ciphertext].concat(), parts.authenticated);
        assert_eq!([parts.authenticated, parts.icv].concat(), datagram);
        if let Ok(inside) = strip_padding(parts.ciphertext) {
            assert!(parts.ciphertext.starts_with(inside));
        }
    }
}

/// What an SK payload holds: the type of the first payload in one octet, then the payloads.
pub fn chain(octets: &[u8]) {
    let Some((first, octets)) = octets.split_first() else { return };
    let Ok(payloads) = Payloads::parse(PayloadType(*first), octets) else { return };
    let again = payloads.emit().expect("what was read can be written");
    assert!(again.octets.len() <= octets.len(), "written, it is longer than it was");
    assert_eq!(Payloads::parse(again.first, &again.octets).as_ref(), Ok(&payloads));
    // What is printed of a peer's message must not lead a terminal astray.
    let mut printed = format!("{payloads:?}");
    let ids = [payloads.id_i(), payloads.id_r()];
    printed.extend(ids.into_iter().flatten().map(|id| id.to_string()));
    printed.extend(payloads.sa().into_iter().flat_map(|sa| &sa.proposals).map(|proposal| proposal.to_string()));
    printed.extend(payloads.ts_i().into_iter().flat_map(|ts| ts.ip()).map(|selector| selector.to_string()));
    assert!(!printed.contains(|letter: char| letter.is_control()));
}

/// Fragments, each by message ID, number, total, number of octets, and the octets, after a limit for the whole message.
pub fn fragments(octets: &[u8]) {
    let Some((limit, mut rest)) = octets.split_first() else { return };
    let limit = usize::from(*limit) * 4;
    let mut reassembly = Reassembly::new(limit);
    // What is there of the current message, for comparison.
    let mut message = (0, 0, Vec::<Option<&[u8]>>::new());
    while let Some(([message_id, number, total, len], after)) = rest.split_first_chunk() {
        let (content, after) = after.split_at(after.len().min(usize::from(*len)));
        rest = after;
        // Also totals beyond the limit.
        let total = u16::from(*total) * 2;
        let Some(fragment) = FragmentId::new(u16::from(*number), total) else { continue };
        let id = MessageId(u32::from(*message_id));
        let checked = reassembly.check(id, fragment);
        let added = reassembly.add(id, fragment, PayloadType(*number), content);
        if total > MAX_FRAGMENTS {
            let error = Unwanted::TooMany { fragment, limit: MAX_FRAGMENTS };
            assert_eq!((checked, added), (Err(error), Err(error)));
            continue;
        }
        let same = message.0 == *message_id && !message.2.is_empty();
        if same && total < message.1 {
            let error = Unwanted::FewerInAll { fragment, total: message.1 };
            assert_eq!((checked, added), (Err(error), Err(error)));
            continue;
        }
        if !same || total > message.1 {
            message = (*message_id, total, vec![None; usize::from(total)]);
        }
        let place = &mut message.2[usize::from(*number) - 1];
        if place.is_some() {
            assert_eq!((checked, added), (Err(Unwanted::Duplicate(fragment)), Err(Unwanted::Duplicate(fragment))));
            continue;
        }
        assert_eq!(checked, Ok(()));
        *place = Some(content);
        let there: usize = message.2.iter().flatten().map(|piece| piece.len()).sum();
        if there > limit {
            assert_eq!(added, Err(Unwanted::TooLong { fragment, limit }));
            message.2.clear();
        } else if message.2.iter().all(Option::is_some) {
            let whole = added.expect("it is wanted").expect("it is whole");
            assert_eq!(whole.first, PayloadType(1));
            assert_eq!(whole.octets, message.2.iter().flatten().copied().collect::<Vec<_>>().concat());
            message.2.clear();
        } else {
            assert_eq!(added, Ok(None));
        }
    }
}
