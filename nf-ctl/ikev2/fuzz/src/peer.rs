//! A peer that has the keys of an IKE SA, and says in it whatever the octets say: what comes after decryption, up to the state
//! of an endpoint. Anybody gets that far in IKE_AUTH, before it proves who it is.

#[path = "../../tests/support/mod.rs"]
#[allow(missing_docs, unreachable_pub)]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use ikev2::crypto::cipher::{AesKey, IkeCipher};
use ikev2::crypto::dh::{DhGroup, KeyExchange};
use ikev2::crypto::keys::{IkeKeys, IkeSuite, Role, Seed};
use ikev2::crypto::prf::Prf;
use ikev2::crypto::secret::Secret;
use ikev2::wire::{
    AddressRange, Auth, AuthMethod, Chain, ChildSpi, EncrId, EsnId, ExchangeType, Flags, Header, Id, IdType, IkeSpi,
    IpSelector, Ke, Message, MessageId, Nonce, Notify, NotifyType, Payload, PayloadType, Payloads, PrfId, Proposal,
    ProtocolId, Reassembly, Sa, SkFrame, Spi, TrafficSelector, Transform, TransformId, Ts, Version, emit,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use support::{B, Net};

/// Octets of a step before its content.
const STEP: usize = 4;
/// So many steps are made of an input.
const STEPS: usize = 32;
/// A datagram may be answered by the fragments of one message and a few messages more, not by a storm.
const ANSWERS: usize = 64;

/// One octet says whether the peer proves who it is. Steps follow: what to do, the first payload's type or for how long to
/// wait, the number of octets that follow in two, and these.
pub fn run(octets: &[u8]) {
    let Some((first, mut rest)) = octets.split_first() else { return };
    let mut peer = Peer::meet();
    if first % 2 == 0 {
        peer.authenticate();
    }
    for _ in 0..STEPS {
        let Some(([what, kind, high, low], after)) = rest.split_first_chunk::<STEP>() else { return };
        let (content, after) = after.split_at(after.len().min(u16::from_be_bytes([*high, *low]).into()));
        rest = after;
        peer.step(*what, PayloadType(*kind), content);
    }
}

/// The peer at A, which is no endpoint, and the network with the endpoint at B.
struct Peer {
    net: Net,
    rng: ChaCha20Rng,
    keys: IkeKeys,
    spis: (IkeSpi, IkeSpi),
    /// What the AUTH payload proves to have sent.
    first_message: Vec<u8>,
    nonce_r: Vec<u8>,
    /// Of our next request.
    next: u32,
    /// Of the endpoint's last request.
    asked: Option<u32>,
    reassembly: Reassembly,
}

fn path() -> (SocketAddr, SocketAddr) {
    (support::address("10.0.0.2:500"), support::address("10.0.0.1:500"))
}

fn header(spis: (IkeSpi, IkeSpi), exchange: ExchangeType, response: bool, id: u32) -> Header {
    Header {
        initiator_spi: spis.0,
        responder_spi: spis.1,
        version: Version::V2,
        exchange,
        flags: Flags { initiator: true, response, ..Flags::default() },
        message_id: MessageId(id),
    }
}

fn transform(id: TransformId) -> Transform {
    Transform::new(id)
}

impl Peer {
    /// IKE_SA_INIT, as it should be.
    fn meet() -> Peer {
        let mut net = Net::pair(1, |_, _| {});
        // What the endpoint sends is read from the trace.
        net.weather.loss = 100;
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let ours = KeyExchange::generate(DhGroup::X25519, &mut rng);
        let group = ikev2::wire::DhGroup::CURVE25519;
        let proposal = Proposal {
            number: 1,
            protocol: ProtocolId::IKE,
            spi: Spi::None,
            transforms: vec![
                transform(TransformId::Encr(EncrId::AES_GCM_16)).with_key_length(128),
                transform(TransformId::Prf(PrfId::HMAC_SHA2_256)),
                transform(TransformId::Dh(group)),
            ],
        };
        let nonce_i = [3; 32];
        let spi_i = IkeSpi([4; 8]);
        let payloads = Payloads::from(vec![
            Payload::Sa(Sa { proposals: vec![proposal] }),
            Payload::Ke(Ke::new(group, ours.public_value())),
            Payload::Nonce(Nonce::new(&nonce_i[..])),
            Payload::Notify(Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)),
        ]);
        let header = header((spi_i, IkeSpi::ZERO), ExchangeType::IKE_SA_INIT, false, 0);
        let first_message = emit(&header, &payloads).expect("it can be sent");
        let (local, remote) = path();
        net.peers[B].endpoint.handle_datagram(net.now, local, remote, &first_message);
        net.collect();
        let (_, answer) = net.trace.pop().expect("it is answered");
        let answer = Message::parse(&answer.payload).expect("what an endpoint sends can be read");
        let spi_r = answer.header.responder_spi;
        let nonce_r = answer.payloads.nonce().expect("a nonce").0.to_vec();
        let shared = ours.agree(&answer.payloads.ke().expect("a public value").data).expect("the groups agree");
        let suite = IkeSuite {
            cipher: IkeCipher::AesGcm16(AesKey::Bits128),
            integrity: None,
            prf: Prf::HmacSha256,
            group: DhGroup::X25519,
        };
        let seed = Seed { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: &spi_i.0, spi_r: &spi_r.0 };
        let keys = IkeKeys::initial(suite, Role::Initiator, &shared, seed);
        let spis = (spi_i, spi_r);
        let reassembly = Reassembly::default();
        Peer { net, rng, keys, spis, first_message, nonce_r, next: 1, asked: None, reassembly }
    }

    /// IKE_AUTH, as it should be.
    fn authenticate(&mut self) {
        let id = Id::new(IdType::FQDN, &b"a.example.org"[..]);
        let signed = self.keys.signed_octets_local(&self.first_message, &self.nonce_r, &id.body());
        let auth = self.keys.psk_auth(&Secret::from(&b"a secret of both"[..]), &signed);
        let proposal = Proposal {
            number: 1,
            protocol: ProtocolId::ESP,
            spi: ChildSpi(0x5000).into(),
            transforms: vec![
                transform(TransformId::Encr(EncrId::AES_GCM_16)).with_key_length(128),
                transform(TransformId::Esn(EsnId::NO)),
            ],
        };
        let net = |second: u8| {
            let range = AddressRange::prefix([10, second, 0, 0].into(), 16).expect("a prefix of IPv4");
            Ts(vec![TrafficSelector::Ip(IpSelector::any(range))])
        };
        let payloads = Payloads::from(vec![
            Payload::IdI(id),
            Payload::Auth(Auth::new(AuthMethod::SHARED_KEY, auth.expose())),
            Payload::Sa(Sa { proposals: vec![proposal] }),
            Payload::TsI(net(1)),
            Payload::TsR(net(2)),
        ]);
        let chain = payloads.emit().expect("it can be sent");
        self.send(ExchangeType::IKE_AUTH, false, self.next, &chain, false);
        assert_eq!(self.net.peers[B].established().len(), 1, "{:?}", self.net.peers[B].log);
    }

    fn step(&mut self, what: u8, first: PayloadType, content: &[u8]) {
        let exchange = match what % 8 {
            0 | 1 => ExchangeType::INFORMATIONAL,
            2 | 3 => ExchangeType::CREATE_CHILD_SA,
            4 => ExchangeType::IKE_AUTH,
            5 => ExchangeType(first.0),
            _ => return self.wait(Duration::from_millis(1 << (first.0 % 24))),
        };
        let response = what & 0x08 != 0;
        let id = if response { self.asked.unwrap_or_default() } else { self.next };
        let id = if what & 0x10 != 0 { id.wrapping_sub(1) } else { id };
        let chain = Chain { first, octets: content.to_vec() };
        self.send(exchange, response, id, &chain, what & 0x20 != 0);
    }

    /// Time goes by; what is due happens.
    fn wait(&mut self, duration: Duration) {
        let until = self.net.now + duration;
        for _ in 0..ANSWERS {
            let due = self.net.peers[B].endpoint.poll_timeout().filter(|due| *due <= until);
            let Some(due) = due else { break };
            self.net.now = self.net.now.max(due);
            self.net.peers[B].endpoint.handle_timeout(self.net.now);
            self.hear();
        }
        self.net.now = until;
    }

    fn send(&mut self, exchange: ExchangeType, response: bool, id: u32, chain: &Chain, in_fragments: bool) {
        let header = header(self.spis, exchange, response, id);
        let layout = self.keys.outbound.layout();
        let max_len = if in_fragments { 120 } else { usize::MAX };
        let Ok(frames) = SkFrame::fragments(&header, chain, layout, max_len) else { return };
        let (local, remote) = path();
        for frame in frames {
            let datagram = self.keys.outbound.seal(frame, &mut self.rng).expect("the key isn't used up");
            self.net.peers[B].endpoint.handle_datagram(self.net.now, local, remote, &datagram);
            self.hear();
        }
    }

    /// Reads what the endpoint has sent: it has to be in order, and no storm.
    fn hear(&mut self) {
        self.net.collect();
        assert!(self.net.trace.len() <= ANSWERS, "{} datagrams at once", self.net.trace.len());
        for (_, transmit) in std::mem::take(&mut self.net.trace) {
            let message = Message::parse(&transmit.payload).expect("what an endpoint sends can be read");
            let header = message.header;
            if (header.initiator_spi, header.responder_spi) != self.spis {
                continue;
            }
            let Some(sk) = message.sk else { continue };
            let content = self.keys.inbound.open(&sk).expect("what an endpoint sends can be decrypted");
            let chain = match sk.fragment {
                None => Chain { first: sk.first, octets: content.to_vec() },
                Some(fragment) => match self.reassembly.add(header.message_id, fragment, sk.first, &content) {
                    Ok(Some(chain)) => chain,
                    _ => continue,
                },
            };
            Payloads::parse(chain.first, &chain.octets).expect("what an endpoint sends can be read");
            let MessageId(id) = header.message_id;
            if !header.flags.response {
                self.asked = Some(id);
            } else if id == self.next {
                self.next += 1;
            }
        }
    }
}
