//! What a state machine is lent while it handles a datagram, a command or a timeout.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use crate::config::EndpointConfig;
use crate::event::{CommandId, Event, Failure, IkeId, Outcome, Transmit};
use crate::sa::IkeSa;
use crate::wire::{ChildSpi, IkeSpi};

/// Where SPIs of inbound CHILD_SAs come from: whoever decapsulates the packets. An SPI is reserved before the peer hears of
/// it, so that a packet that is faster than the SA counts as early and not as unknown.
pub trait SpiSource {
    /// Reserves an SPI for packets from `remote` to `local`. Has to answer at once.
    fn reserve(&mut self, local: IpAddr, remote: IpAddr) -> Result<ChildSpi, SpiError>;

    /// Gives back an SPI that no CHILD_SA came to use. One that was reported by [`Event::ChildUp`] ends with
    /// [`Event::ChildDown`] instead.
    fn release(&mut self, local: IpAddr, remote: IpAddr, spi: ChildSpi);
}

/// Why no SPI was to be had, for a log line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SpiError(pub String);

/// What came out and wasn't fetched yet.
#[derive(Default)]
pub(crate) struct Output {
    pub events: VecDeque<Event>,
    pub transmits: VecDeque<Transmit>,
    /// What concerns more than one IKE SA, for the endpoint to do.
    pub actions: Vec<Action>,
    last_ike: u64,
}

impl Output {
    pub fn new_ike_id(&mut self) -> IkeId {
        self.last_ike += 1;
        IkeId(self.last_ike)
    }
}

/// Something that one IKE SA asks for and that concerns others.
pub(crate) enum Action {
    /// A new IKE SA, made by rekeying.
    Add(Box<IkeSa>),
    /// The children and the pending commands of an IKE SA go over to its successor.
    Inherit {
        /// From this one.
        old: IkeId,
        /// To that one.
        new: IkeId,
        /// The command that asked for it.
        command: Option<CommandId>,
    },
    /// An IKE SA ends, after what was asked for before.
    Close(IkeId, Failure),
    /// An IKE SA that lost a collision: the peer will delete it, and if not, time will.
    Redundant(IkeId),
    /// All other IKE SAs with the same identities end: the peer doesn't know them any more.
    Supersede {
        /// The one that stays.
        by: IkeId,
        /// Only those that were established by then: later ones the peer must know.
        established_before: Instant,
    },
}

/// What a state machine works with.
pub(crate) struct Cx<'a> {
    pub now: Instant,
    pub unix_time: Duration,
    pub config: &'a EndpointConfig,
    pub rng: &'a mut (dyn CryptoRng + Send),
    pub spis: &'a mut (dyn SpiSource + Send),
    pub out: &'a mut Output,
}

impl Cx<'_> {
    pub fn event(&mut self, event: Event) {
        self.out.events.push_back(event);
    }

    pub fn action(&mut self, action: Action) {
        self.out.actions.push(action);
    }

    /// Reports a command's result, if there was one.
    pub fn done(&mut self, command: Option<CommandId>, ike: IkeId, result: Result<Outcome, Failure>) {
        if let Some(command) = command {
            self.event(Event::Done { command, ike, result });
        }
    }

    /// A nonce of 32 octets: at least half the key size of the longest PRF (RFC 7296 2.10).
    pub fn nonce(&mut self) -> Vec<u8> {
        let mut nonce = vec![0; 32];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }

    pub fn ike_spi(&mut self) -> IkeSpi {
        loop {
            let mut spi = [0; 8];
            self.rng.fill_bytes(&mut spi);
            if spi != [0; 8] {
                return IkeSpi(spi);
            }
        }
    }

    /// A random duration up to `most`.
    pub fn jitter(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.rng.next_u64() % most.saturating_add(1))
    }
}
