//! What nf-core reads: from the network, from its control socket, from nf.toml.

use std::collections::BTreeSet;
use std::path::Path;

use aes_gcm::Aes128Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce};
use nf_core::batch::{Batch, Fate};
use nf_core::config::{Config, PortRole};
use nf_core::control::controller::Controller;
use nf_core::control::proto::Request;
use nf_core::core::Core;
use nf_core::net::NetPort;
use nf_core::notify::FanOut;
use nf_core::packet::Packet;
use nf_core::plugin::Registry;
use nf_core::types::{Nanos, PortIndex};
use nf_core::wire::ethernet::MacAddr;

const HEADROOM: usize = 128;
const KEY: [u8; 16] = [0x5A; 16];
const SALT: [u8; 4] = [1, 2, 3, 4];
/// Packets of the SAs' replay windows, which is the default.
const WINDOW: u64 = 64;

/// The SAs of a peer: AES-GCM, in each row another kind. Their SPIs are 0x1000, 0x1001, ..
const KINDS: [Kind; 4] = [
    Kind { mode: "tunnel", esn: false, udp: false },
    Kind { mode: "tunnel", esn: true, udp: true },
    Kind { mode: "transport", esn: false, udp: false },
    Kind { mode: "transport", esn: true, udp: true },
];

struct Kind {
    mode: &'static str,
    esn: bool,
    udp: bool,
}

struct Nf {
    controller: Controller,
    cores: Vec<Core>,
}

impl Nf {
    fn new() -> Nf {
        let mut text = "[crypto]\nengine = \"aes-gcm\"\n[sad]\ncapacity = 64\n".to_owned();
        for (number, Kind { mode, esn, udp }) in KINDS.iter().enumerate() {
            let encap = if *udp { "udp" } else { "none" };
            text += &format!(
                "[[sa]]\nspi = {}\nsrc = \"10.1.1.1\"\ndst = \"10.10.1.2\"\nmode = \"{mode}\"\nalg = \"aes-gcm-16\"\n\
                 key = \"{}01020304\"\nesn = {esn}\nencap = \"{encap}\"\nselectors = {{ src = [\"192.168.0.0/16\", \"10.0.0.0/8\"] }}\n",
                0x1000 + number,
                "5a".repeat(16),
            );
        }
        let config = Config::parse(&text, Path::new("nf.toml")).expect("the configuration is sound");
        let port = |role| ("port".to_owned(), NetPort::new(role, MacAddr::default(), None));
        let ports = [PortRole::Unprotected, PortRole::Protected].map(port).into();
        let (controller, cores) =
            Controller::new(&config, Registry::builtin(), ports, 1, FanOut::default()).expect("it can be made");
        Nf { controller, cores }
    }

    /// A burst of one frame; gives its fate, and what it is by then.
    fn receive(&mut self, frame: &[u8]) -> (Fate, Vec<u8>) {
        let core = &mut self.cores[0];
        let mut buffer = [&[0; HEADROOM][..], frame].concat();
        let mut batch = Batch::default();
        let packet = Packet::new(&mut buffer, HEADROOM..HEADROOM + frame.len(), PortIndex(0)).expect("there is room");
        assert!(batch.push(packet).is_some(), "there is room in an empty batch");
        core.counters().rx().add(1, frame.len() as u64);
        core.process(Nanos(1), &mut batch);
        let lane = batch.lanes().into_iter().next().expect("the packet is there");
        let (fate, octets) = (batch.fate(lane), batch.packet(lane).data().to_vec());
        match fate {
            Fate::Send(_) => core.counters().tx().add(1, octets.len() as u64),
            Fate::Reassemble => core.counters().drops(nf_core::drop::DropReason::FragmentV4).add(1, frame.len() as u64),
            Fate::Fragment { .. } => panic!("each packet fits its port"),
            Fate::Hold => panic!("no SPI is reserved"),
            Fate::Submit => panic!("no crypto device is used"),
            Fate::Pending => panic!("a packet without a fate"),
            Fate::Dropped(_) | Fate::Consumed(_) => {}
        }
        (fate, octets)
    }

    fn finish(self) {
        assert!(self.controller.counters().is_conserved());
    }
}

/// Frames as they come from the network, each behind its length in two octets: none that claims to be of an SA comes out, as
/// the sender can't know the keys, and each has one fate.
pub fn frame(octets: &[u8]) {
    let mut nf = Nf::new();
    let mut rest = octets;
    while let Some(([high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low]) % 2048).min(after.len());
        let (frame, after) = after.split_at(length);
        rest = after;
        let (fate, _) = nf.receive(frame);
        if let Ok(headers) = nf_core::wire::parse(frame)
            && let Some(spi) = headers.spi()
            && (0x1000..0x1004).contains(&spi.0)
            && headers.dst(frame) == Some([10, 10, 1, 2].into())
        {
            assert!(!matches!(fate, Fate::Send(PortIndex(1))), "a packet came out that nobody has sealed");
        }
    }
    nf.finish();
}

/// Packets of a peer that has the keys: each is an SA, a step of the sequence number, the next header, octets of padding, the
/// length of what is inside and that, and what is changed once it is sealed: a place and a value. What was changed where
/// it is authentic doesn't come out, no number does twice, and one that is new and whole is never taken for a replay.
pub fn decap(octets: &[u8]) {
    let mut nf = Nf::new();
    let mut seqs = [1u64 << 20; KINDS.len()];
    let mut taken = BTreeSet::new();
    let mut rest = octets;
    while let Some(([pick, step, next_header, padding, length, place, value], after)) = rest.split_first_chunk() {
        let (inside, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let number = usize::from(*pick) % KINDS.len();
        // Back, again, or on.
        let seq = seqs[number].saturating_add_signed(i64::from(*step as i8));
        let is_new = seq > seqs[number];
        let whole = seal(number, seq, *next_header, *padding, inside);
        let mut frame = whole.clone();
        let esp = frame.len() - whole_esp(number, &whole);
        if *value != 0 {
            let at = esp + usize::from(*place) % (frame.len() - esp);
            frame[at] ^= value;
        }
        let (fate, _) = nf.receive(&frame);
        use nf_core::drop::DropReason;
        if frame == whole {
            // With ESN, what is left of the window is taken for a number of the next 2^32 (RFC 4303 A2.2).
            let is_taken_for_another = KINDS[number].esn && seq + WINDOW <= seqs[number];
            if !is_taken_for_another {
                assert!(!matches!(fate, Fate::Dropped(DropReason::AuthFailed)), "what the peer sealed is authentic");
            }
            if is_new {
                assert!(!matches!(fate, Fate::Dropped(DropReason::Replay)), "{seq} was not there before");
                seqs[number] = seq;
            }
            if !matches!(fate, Fate::Dropped(DropReason::Replay | DropReason::AuthFailed)) {
                assert!(taken.insert((number, seq)), "{seq} was taken twice");
            }
        } else {
            assert!(matches!(fate, Fate::Dropped(_)), "a damaged packet came out");
        }
    }
    nf.finish();
}

/// The length of a frame's ESP packet.
fn whole_esp(number: usize, frame: &[u8]) -> usize {
    frame.len() - 14 - 20 - if KINDS[number].udp { 8 } else { 0 }
}

/// A frame with an ESP packet, in which is whatever a peer may put there.
fn seal(number: usize, seq: u64, next_header: u8, padding: u8, inside: &[u8]) -> Vec<u8> {
    let Kind { esn, udp, .. } = KINDS[number];
    let spi = (0x1000 + number as u32).to_be_bytes();
    let mut esp = [&spi[..], &(seq as u32).to_be_bytes(), &seq.to_be_bytes()].concat();
    let additional = if esn { [&spi[..], &seq.to_be_bytes()].concat() } else { esp[..8].to_vec() };
    // In front of the trailer there are as many octets of padding as align it, or as many as the peer likes.
    let mut body = inside.to_vec();
    let aligning = (4 - (body.len() + 2) % 4) % 4;
    let count = if padding < 4 { aligning } else { aligning + usize::from(padding & !3) };
    body.extend((1..=count).map(|octet| octet as u8));
    body.extend([count as u8, next_header]);
    let nonce = [&SALT[..], &seq.to_be_bytes()].concat();
    let nonce = Nonce::<Aes128Gcm>::try_from(nonce.as_slice()).expect("twelve octets");
    let cipher = Aes128Gcm::new_from_slice(&KEY).expect("a key of 128 bits");
    let tag = cipher.encrypt_inout_detached(&nonce, &additional, body.as_mut_slice().into()).expect("it is short");
    esp.extend(body);
    esp.extend(tag);
    let (protocol, payload) = match udp {
        false => (50, esp),
        true => {
            let length = (esp.len() as u16 + 8).to_be_bytes();
            (17, [&4500u16.to_be_bytes()[..], &4500u16.to_be_bytes(), &length, &[0, 0], &esp].concat())
        }
    };
    let length = (20 + payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 10, 1, 1, 1, 10, 10, 1, 2];
    nf_core::wire::ipv4::refresh_checksum(&mut packet);
    packet.extend(payload);
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..], &packet].concat()
}

/// A line of the control protocol: what is understood means the same when it is written again, and what isn't is said in a
/// sentence that repeats no value.
pub fn control(line: &[u8]) {
    match Request::decode(line) {
        Ok(request) => {
            let again = serde_json::to_string(&request).expect("it can be written");
            let same = Request::decode(again.as_bytes()).expect("what was written can be read");
            assert_eq!(serde_json::to_string(&same).expect("it can be written"), again);
            if let Request::SaAdd { sa } = request {
                let _ = sa.validate().map_err(|error| assert!(!error.to_string().is_empty()));
            }
        }
        Err(message) => assert!(!message.is_empty() && !message.contains('\n'), "{message}"),
    }
}

/// nf.toml: what is wrong with it is said with the file's name.
pub fn config(text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text)
        // An operator's file system is not for a fuzzer.
        && !text.contains("_file")
        && let Err(error) = Config::parse(text, Path::new("nf.toml"))
    {
        let message = error.to_string();
        assert!(message.starts_with("nf.toml:"), "{message}");
    }
}
