//! Two endpoints and a network between them, in virtual time: everything follows from a seed.
#![allow(dead_code, reason = "each test crate uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ikev2::config::{Auth, RemoteAddress};
use ikev2::crypto::esp::EspKeys;
use ikev2::crypto::secret::Secret;
use ikev2::wire::ChildSpi;
use ikev2::{
    ChildDownReason, ChildUp, CommandId, Connection, Endpoint, EndpointConfig, Event, Failure, IkeId, Outcome,
    SpiError, SpiSource, Transmit,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

pub const A: usize = 0;
pub const B: usize = 1;

/// SPIs that are reserved and neither in use nor given back.
#[derive(Default)]
pub struct Reserved {
    next: u32,
    pub open: HashSet<ChildSpi>,
    /// Refuse further ones.
    pub exhausted: bool,
}

struct Spis(Arc<Mutex<Reserved>>);

impl SpiSource for Spis {
    fn reserve(&mut self, _: IpAddr, _: IpAddr) -> Result<ChildSpi, SpiError> {
        let mut reserved = self.0.lock().unwrap();
        if reserved.exhausted {
            return Err(SpiError("the test has none left".into()));
        }
        reserved.next += 1;
        let spi = ChildSpi(reserved.next);
        reserved.open.insert(spi);
        Ok(spi)
    }

    fn release(&mut self, _: IpAddr, _: IpAddr, spi: ChildSpi) {
        assert!(self.0.lock().unwrap().open.remove(&spi), "{spi} released, but it isn't reserved");
    }
}

/// One end: the endpoint and what its driver knows.
pub struct Peer {
    pub endpoint: Endpoint,
    pub address: IpAddr,
    /// The CHILD_SAs that are installed, by inbound SPI.
    pub sad: BTreeMap<u32, ChildUp>,
    pub downs: Vec<(ChildSpi, ChildDownReason)>,
    pub results: Vec<(CommandId, Result<Outcome, Failure>)>,
    /// All other events.
    pub log: Vec<Event>,
    pub reserved: Arc<Mutex<Reserved>>,
    pub sent: u64,
    /// All events in a line each, for the message of a test that fails.
    pub history: Vec<String>,
}

impl Peer {
    pub fn new(address: &str, seed: u64, config: EndpointConfig, now: Instant) -> Peer {
        let reserved = Arc::new(Mutex::new(Reserved { next: 0x1000 * (seed as u32 + 1), ..Reserved::default() }));
        let rng = Box::new(ChaCha20Rng::seed_from_u64(seed));
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let endpoint = Endpoint::new(config, rng, Box::new(Spis(Arc::clone(&reserved))), now, wall);
        Peer {
            endpoint,
            address: address.parse().unwrap(),
            sad: BTreeMap::new(),
            downs: Vec::new(),
            results: Vec::new(),
            log: Vec::new(),
            reserved,
            sent: 0,
            history: Vec::new(),
        }
    }

    /// Does what a driver does: first all events, then all datagrams.
    fn drive(&mut self) -> Vec<Transmit> {
        while let Some(event) = self.endpoint.poll_event() {
            self.history.push(match &event {
                Event::ChildUp(up) => {
                    format!("{} up: in {} out {} replaces {:?}", up.ike, up.inbound_spi, up.outbound_spi, up.replaces)
                }
                other => format!("{other:?}"),
            });
            match event {
                Event::ChildUp(up) => {
                    assert!(
                        self.reserved.lock().unwrap().open.remove(&up.inbound_spi),
                        "{} is up, but wasn't reserved",
                        up.inbound_spi
                    );
                    if let Some(old) = up.replaces {
                        assert!(self.sad.contains_key(&old.0), "{old} is replaced, but isn't there");
                    }
                    assert!(self.sad.insert(up.inbound_spi.0, *up).is_none(), "an SPI twice");
                }
                Event::ChildDown { inbound_spi, outbound_spi, reason, .. } => {
                    let up = self.sad.remove(&inbound_spi.0).expect("down, but wasn't up");
                    assert_eq!(up.outbound_spi, outbound_spi);
                    self.downs.push((inbound_spi, reason));
                }
                Event::Done { command, result, .. } => {
                    assert!(!self.results.iter().any(|(known, _)| *known == command), "a command done twice");
                    self.results.push((command, result));
                }
                other => self.log.push(other),
            }
        }
        std::iter::from_fn(|| self.endpoint.poll_transmit()).collect()
    }

    pub fn result(&self, command: CommandId) -> Option<&Result<Outcome, Failure>> {
        self.results.iter().find(|(known, _)| *known == command).map(|(_, result)| result)
    }

    pub fn established(&self) -> Vec<IkeId> {
        let mut ids: Vec<_> = self.endpoint.ike_sas().filter(|sa| sa.established).map(|sa| sa.ike).collect();
        ids.sort();
        ids
    }

    pub fn ike_downs(&self) -> Vec<Failure> {
        self.log
            .iter()
            .filter_map(|event| match event {
                Event::IkeDown { reason, .. } => Some(reason.clone()),
                _ => None,
            })
            .collect()
    }
}

/// What the network does to datagrams. Shares are in percent.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: u32,
    pub duplicates: u32,
    /// Datagrams of which an octet is another one when they arrive.
    pub damage: u32,
    /// The least and the most delay: where they differ much, datagrams overtake each other.
    pub delay: (Duration, Duration),
}

impl Weather {
    pub const FAIR: Weather =
        Weather { loss: 0, duplicates: 0, damage: 0, delay: (Duration::from_millis(5), Duration::from_millis(5)) };
    pub const FOUL: Weather =
        Weather { loss: 20, duplicates: 20, damage: 0, delay: (Duration::from_millis(1), Duration::from_millis(400)) };
}

/// Changes a datagram, drops it (nothing), or makes more of it.
type Meddler = Box<dyn FnMut(usize, &Transmit) -> Vec<Transmit>>;

pub struct Net {
    pub now: Instant,
    pub start: Instant,
    pub peers: Vec<Peer>,
    in_flight: Vec<(Instant, u64, Transmit)>,
    rng: ChaCha20Rng,
    serial: u64,
    pub weather: Weather,
    /// Between sending and the network.
    pub meddler: Option<Meddler>,
    /// Every datagram that was sent: by whom, and what.
    pub trace: Vec<(usize, Transmit)>,
    history: Vec<String>,
}

impl Net {
    pub fn new(seed: u64, configs: [EndpointConfig; 2]) -> Net {
        let now = Instant::now();
        let [a, b] = configs;
        let peers = vec![Peer::new("10.0.0.1", seed * 2, a, now), Peer::new("10.0.0.2", seed * 2 + 1, b, now)];
        Net {
            now,
            start: now,
            peers,
            in_flight: Vec::new(),
            rng: ChaCha20Rng::seed_from_u64(seed ^ 0xdead_beef),
            serial: 0,
            weather: Weather::FAIR,
            meddler: None,
            trace: Vec::new(),
            history: Vec::new(),
        }
    }

    /// Two peers with a connection to each other, changed as wished.
    pub fn pair(seed: u64, change: impl Fn(usize, &mut Connection)) -> Net {
        let mut net = Net::new(seed, [config(seed), config(seed + 1)]);
        for side in [A, B] {
            let mut connection = connection(side);
            change(side, &mut connection);
            net.peers[side].endpoint.add_connection(connection).unwrap();
        }
        net
    }

    fn random(&mut self, below: u32) -> u32 {
        self.rng.next_u32() % below.max(1)
    }

    /// The last lines of what happened.
    pub fn history(&self, lines: usize) -> String {
        self.history[self.history.len().saturating_sub(lines)..].join("\n")
    }

    /// Fetches what the peers have to say.
    pub fn collect(&mut self) {
        for side in 0..self.peers.len() {
            let sent = self.peers[side].drive();
            let now = self.now - self.start;
            for line in std::mem::take(&mut self.peers[side].history) {
                self.history.push(format!("{now:?} {side} {line}"));
            }
            for transmit in sent {
                let header = ikev2::wire::Header::parse(&transmit.payload).unwrap();
                let (kind, id, flags) = (header.exchange, header.message_id, header.flags);
                let spi = header.initiator_spi;
                let arrow = if flags.response { "response" } else { "request" };
                self.history.push(format!("{now:?} {side} sends {kind} {arrow} {id} over {spi}"));
                self.peers[side].sent += 1;
                self.trace.push((side, transmit.clone()));
                let sent = match &mut self.meddler {
                    Some(meddler) => meddler(side, &transmit),
                    None => vec![transmit],
                };
                for transmit in sent {
                    self.post(transmit);
                }
            }
        }
    }

    /// Gives a datagram to the network.
    pub fn post(&mut self, transmit: Transmit) {
        let copies = if self.random(100) < self.weather.duplicates { 2 } else { 1 };
        for _ in 0..copies {
            if self.random(100) < self.weather.loss {
                continue;
            }
            let (least, most) = self.weather.delay;
            let spread = (most - least).as_micros() as u32 + 1;
            let at = self.now + least + Duration::from_micros(self.random(spread).into());
            self.serial += 1;
            let mut transmit = transmit.clone();
            if self.random(100) < self.weather.damage {
                let octet = self.random(transmit.payload.len() as u32) as usize;
                transmit.payload[octet] ^= 1 << self.random(8);
            }
            self.in_flight.push((at, self.serial, transmit));
        }
    }

    /// Goes on to the next thing that happens, no later than `until`; `false` if there is none.
    pub fn step(&mut self, until: Instant) -> bool {
        self.collect();
        let datagram = self.in_flight.iter().map(|(at, serial, _)| (*at, *serial)).min();
        let timer = self.peers.iter().filter_map(|peer| peer.endpoint.poll_timeout()).min();
        let next = [datagram.map(|(at, _)| at), timer].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        if let Some((at, serial)) = datagram
            && at <= self.now
        {
            let index = self.in_flight.iter().position(|(_, found, _)| *found == serial).unwrap();
            let (_, _, transmit) = self.in_flight.swap_remove(index);
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.address == transmit.remote.ip()) {
                peer.endpoint.handle_datagram(self.now, transmit.remote, transmit.local, &transmit.payload);
            }
        } else {
            for peer in &mut self.peers {
                if peer.endpoint.poll_timeout().is_some_and(|at| at <= self.now) {
                    peer.endpoint.handle_timeout(self.now);
                }
            }
        }
        self.collect();
        true
    }

    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
    }

    /// Runs until it holds, or panics after that long.
    pub fn run_until(&mut self, most: Duration, what: &str, holds: impl Fn(&Net) -> bool) {
        let until = self.now + most;
        while !holds(self) {
            assert!(self.step(until), "not within {most:?}: {what}");
        }
    }

    /// A brings the connection up; gives the IKE SA at A.
    pub fn connect(&mut self) -> IkeId {
        let (command, ike) = self.peers[A].endpoint.initiate(self.now, "b", true).unwrap();
        self.run_until(Duration::from_secs(60), "the IKE SA comes up", |net| net.peers[A].result(command).is_some());
        assert!(
            matches!(self.peers[A].result(command), Some(Ok(Outcome::Established(_)))),
            "{:?}",
            self.peers[A].results
        );
        self.collect();
        ike
    }

    /// Both sides have the same IKE SAs and the same CHILD_SAs, each the mirror of the other's; no SPI hangs.
    pub fn assert_mirrored(&self) {
        let spis = |side: usize| {
            let sas = self.peers[side].endpoint.ike_sas().filter(|sa| sa.established);
            let mut spis: Vec<_> = sas.map(|sa| sa.spis).collect();
            spis.sort();
            spis
        };
        assert_eq!(spis(A), spis(B), "the IKE SAs");
        let (a, b) = (&self.peers[A].sad, &self.peers[B].sad);
        assert_eq!(a.len(), b.len(), "{a:?}\n{b:?}");
        for ours in a.values() {
            let theirs = b.get(&ours.outbound_spi.0).expect("the peer has the other direction");
            assert_eq!(theirs.outbound_spi, ours.inbound_spi);
            assert_eq!((theirs.suite, theirs.mode, theirs.udp_encap), (ours.suite, ours.mode, ours.udp_encap));
            assert_eq!((&theirs.local_ts, &theirs.remote_ts), (&ours.remote_ts, &ours.local_ts));
            assert_eq!((theirs.local, theirs.remote), (ours.remote, ours.local));
            for (x, y) in [(&ours.keys.inbound, &theirs.keys.outbound), (&ours.keys.outbound, &theirs.keys.inbound)] {
                assert_eq!(x.encryption.expose(), y.encryption.expose());
                assert_eq!(x.integrity.expose(), y.integrity.expose());
            }
            let all = |keys: &EspKeys| [keys.encryption.expose(), keys.integrity.expose()].concat();
            assert_ne!(all(&ours.keys.inbound), all(&ours.keys.outbound));
        }
        for peer in &self.peers {
            assert!(peer.reserved.lock().unwrap().open.is_empty(), "SPIs that are neither used nor given back");
        }
    }
}

impl Drop for Net {
    /// A test that fails shows what happened before.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.history(200));
        }
    }
}

pub fn config(seed: u64) -> EndpointConfig {
    EndpointConfig { qcd_secret: Some(Secret::new(vec![seed as u8; 32])), ..EndpointConfig::default() }
}

pub fn psk(text: &str) -> Auth {
    Auth::Psk(Secret::from(text.as_bytes()))
}

pub fn connection(side: usize) -> Connection {
    let (name, local, remote) = if side == A { ("b", "10.0.0.1", "10.0.0.2") } else { ("a", "10.0.0.2", "10.0.0.1") };
    let ids = ["a.example.org", "b.example.org"];
    let remote = RemoteAddress::Host(remote.parse().unwrap());
    let local_id = ids[side].parse().unwrap();
    let mut connection = Connection::new(name, local.parse().unwrap(), remote, local_id, psk("a secret of both"));
    connection.remote_id = Some(ids[1 - side].parse().unwrap());
    connection.ike_proposals = vec!["aes128gcm16-prfsha256-x25519-ecp256".parse().unwrap()];
    connection.esp_proposals = vec!["aes128gcm16-noesn".parse().unwrap()];
    let networks = ["10.1.0.0/16", "10.2.0.0/16"];
    connection.local_ts = vec![networks[side].parse().unwrap()];
    connection.remote_ts = vec![networks[1 - side].parse().unwrap()];
    connection
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
