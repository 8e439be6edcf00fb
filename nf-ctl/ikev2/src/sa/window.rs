//! Message IDs, the request that is under way, and the last response (RFC 7296 2.1 to 2.3), with a window of 1.

use std::time::{Duration, Instant};

use super::exchange::Exchange;
use crate::config::Retransmit;
use crate::context::Cx;
use crate::wire::{ExchangeType, MessageId, Reassembly};

/// A request of ours that has no response yet.
pub(crate) struct Outstanding {
    pub id: MessageId,
    pub kind: ExchangeType,
    pub exchange: Exchange,
    /// The request, in fragments where it was long.
    pub datagrams: Vec<Vec<u8>>,
    /// How often it was sent.
    pub sent: u32,
    pub first_sent: Instant,
    /// When it is due again.
    pub due: Instant,
    pause: Duration,
    tries: u32,
}

impl Outstanding {
    pub fn new(
        id: MessageId,
        kind: ExchangeType,
        exchange: Exchange,
        datagrams: Vec<Vec<u8>>,
        rules: &Retransmit,
        cx: &mut Cx<'_>,
    ) -> Self {
        let tries = if exchange.is_farewell() { rules.tries.min(FAREWELL_TRIES) } else { rules.tries };
        let mut outstanding = Outstanding {
            id,
            kind,
            exchange,
            datagrams,
            sent: 1,
            first_sent: cx.now,
            due: cx.now,
            pause: rules.initial,
            tries,
        };
        outstanding.schedule(rules, cx);
        outstanding
    }

    /// Plans the next repetition: a random eighth more, so that peers that lost their packets together don't go on together.
    fn schedule(&mut self, rules: &Retransmit, cx: &mut Cx<'_>) {
        self.due = cx.now + self.pause + cx.jitter(self.pause / 8);
        self.pause = (self.pause * rules.factor_percent / 100).min(rules.max);
    }

    /// Nobody needs the answer any more but to send the next request.
    pub fn hurry(&mut self) {
        self.tries = self.tries.min(self.sent.saturating_add(FAREWELL_TRIES));
    }

    /// Counts a repetition; `false` when there were enough.
    pub fn repeat(&mut self, rules: &Retransmit, cx: &mut Cx<'_>) -> bool {
        if self.sent > self.tries {
            return false;
        }
        self.sent += 1;
        self.schedule(rules, cx);
        true
    }
}

/// A peer that we say goodbye to need not answer: the IKE SA ends anyway.
const FAREWELL_TRIES: u32 = 4;

/// The peer's requests.
#[derive(Default)]
pub(crate) struct Received {
    /// The number of the next one.
    pub expected: MessageId,
    /// The response to the one before, to be repeated when that comes again.
    pub response: Vec<Vec<u8>>,
    pub reassembly: Reassembly,
}
