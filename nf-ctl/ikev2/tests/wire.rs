//! What holds for every message, however odd.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{header, payloads};
use ikev2::wire::*;
use proptest::prelude::*;

proptest! {
    /// What is sent is received.
    #[test]
    fn a_message_comes_back_as_it_was(header in header(), payloads in payloads()) {
        let message = emit(&header, &payloads).unwrap();
        let parsed = Message::parse(&message).unwrap();
        prop_assert_eq!(parsed.header, header);
        prop_assert_eq!(&parsed.payloads, &payloads);
        prop_assert_eq!(parsed.sk, None);
        prop_assert_eq!(emit(&parsed.header, &parsed.payloads).unwrap(), message);
    }

    /// The same for what an SK payload holds, through framing and padding.
    #[test]
    fn an_encrypted_chain_comes_back_as_it_was(
        header in header(), payloads in payloads(), iv in 0_usize..20, icv in 0_usize..40, block in 1_usize..65,
    ) {
        let layout = SkLayout { iv, block, icv };
        let chain = payloads.emit().unwrap();
        let mut frame = SkFrame::new(&header, &chain, layout).unwrap();
        {
            let parts = frame.parts_mut();
            prop_assert_eq!((parts.iv.len(), parts.icv.len(), parts.text.len() % block), (iv, icv, 0));
            parts.iv.fill(0x11);
            parts.icv.fill(0x22);
        }
        let message = frame.into_message();
        let parsed = Message::parse(&message).unwrap();
        prop_assert_eq!(parsed.header, header);
        let sk = parsed.sk.unwrap();
        let parts = sk.parts(layout).unwrap();
        prop_assert_eq!(parts.iv, vec![0x11; iv]);
        prop_assert_eq!(parts.icv, vec![0x22; icv]);
        prop_assert_eq!([parts.aad, parts.iv, parts.ciphertext].concat(), parts.authenticated);
        prop_assert_eq!([parts.authenticated, parts.icv].concat(), message.clone());
        let inside = strip_padding(parts.ciphertext).unwrap();
        prop_assert_eq!(Payloads::parse(sk.first, inside).unwrap(), payloads);
    }

    /// Fragments fit, and give the message again in whatever order and however often they come.
    #[test]
    fn fragments_become_the_message_again(
        header in header(), payloads in payloads(), iv in 0_usize..17, icv in 0_usize..33, block in 1_usize..17,
        max_len in 120_usize..1500, order in any::<u64>(),
    ) {
        let layout = SkLayout { iv, block, icv };
        let chain = payloads.emit().unwrap();
        let Ok(frames) = SkFrame::fragments(&header, &chain, layout, max_len) else {
            prop_assert!(chain.octets.len() / max_len > 60, "too many fragments of {max_len} octets");
            return Ok(());
        };
        let mut messages: Vec<Vec<u8>> = frames.into_iter().map(SkFrame::into_message).collect();
        prop_assert!(messages.iter().all(|message| message.len() <= max_len));
        let count = messages.len();
        for at in 0..count {
            messages.swap(at, (order.rotate_left(at as u32) % count as u64) as usize);
        }
        let mut reassembly = Reassembly::new(1 << 20);
        let mut whole = None;
        for message in messages.iter().flat_map(|message| [message, message]) {
            let message = Message::parse(message).unwrap();
            let sk = message.sk.unwrap();
            let plaintext = strip_padding(sk.parts(layout).unwrap().ciphertext).unwrap();
            let Some(fragment) = sk.fragment else {
                whole = Some(Chain { first: sk.first, octets: plaintext.to_vec() });
                continue;
            };
            match reassembly.add(message.header.message_id, fragment, sk.first, plaintext) {
                Ok(Some(chain)) => {
                    whole = Some(chain);
                    break;
                }
                Ok(None) => {}
                Err(error) => prop_assert_eq!(error, Unwanted::Duplicate(fragment)),
            }
        }
        prop_assert_eq!(whole, Some(chain));
    }

    /// No octets do harm.
    #[test]
    fn arbitrary_octets_are_refused_or_read(octets in proptest::collection::vec(any::<u8>(), 0..400), first in any::<u8>()) {
        let _ = Message::parse(&octets);
        if let Ok(payloads) = Payloads::parse(PayloadType(first), &octets) {
            let again = payloads.emit().unwrap();
            prop_assert_eq!(Payloads::parse(again.first, &again.octets).unwrap(), payloads);
        }
    }

    /// A message with octets changed, cut off or added is refused, or read as another that can be sent.
    #[test]
    fn damaged_messages_are_refused_or_read(
        header in header(), payloads in payloads(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(), cut_it in any::<bool>(),
    ) {
        let mut message = emit(&header, &payloads).unwrap();
        for (at, octet) in changes {
            let at = at.index(message.len());
            message[at] = octet;
        }
        if cut_it {
            message.truncate(cut.index(message.len()));
        }
        if let Ok(parsed) = Message::parse(&message) {
            let again = emit(&parsed.header, &parsed.payloads).unwrap();
            let reparsed = Message::parse(&again).unwrap();
            prop_assert_eq!(reparsed.payloads, parsed.payloads);
        }
    }

    /// An error says where it is and is answered by a notify that can be sent.
    #[test]
    fn errors_have_an_answer(octets in proptest::collection::vec(any::<u8>(), 28..200)) {
        let mut octets = octets;
        let length = octets.len() as u32;
        octets[24..28].copy_from_slice(&length.to_be_bytes());
        octets[17] = 0x20;
        if let Err(error) = Message::parse(&octets) {
            prop_assert!(error.notify().kind.is_error());
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
