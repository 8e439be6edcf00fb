//! How long an SA may be used (RFC 4301 4.4.2.1): limits on octets, packets and seconds, and the end of its sequence
//! numbers (RFC 4303 3.3.3).
//!
//! Only authentic packets count: neither a replay nor a forged packet makes an SA older. What follows from traffic is found
//! out by the core that takes the packet, so that a hard limit isn't overrun by more than a burst; the seconds are the
//! control thread's.

use serde::{Deserialize, Serialize};

use crate::sa::inbound::SaTotals;
use crate::sa::spec::FieldError;
use crate::sync::{AtomicU8, Ordering::Relaxed};
use crate::types::SeqNo;

/// Limits as an operator or IKE gives them. What is left out has no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Octets of ESP payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Authentic packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Seconds since the installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// An SA's lifetime.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lifetime {
    /// At the first of these the SA is dying: time for a rekey.
    #[serde(skip_serializing_if = "Limits::is_none")]
    pub soft: Limits,
    /// At the first of these it is deleted.
    #[serde(skip_serializing_if = "Limits::is_none")]
    pub hard: Limits,
}

/// The greatest number that TOML can write; more than any SA lives to see.
const MAX: u64 = i64::MAX as u64;

/// The longest lifetime in seconds: ten years.
const MAX_SECONDS: u64 = 10 * 365 * 86_400;

impl Limits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Limits::default()
    }
}

impl Lifetime {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Lifetime::default()
    }

    /// Checks that each limit can be reached, and each soft one before the hard one.
    ///
    /// # Errors
    /// Names the limit.
    pub fn check(&self) -> Result<(), FieldError> {
        let refuse = |message: String| Err(FieldError::new("lifetime", message));
        for (unit, max, soft, hard) in [
            ("bytes", MAX, self.soft.bytes, self.hard.bytes),
            ("packets", MAX, self.soft.packets, self.hard.packets),
            ("seconds", MAX_SECONDS, self.soft.seconds, self.hard.seconds),
        ] {
            for (name, limit) in [("soft", soft), ("hard", hard)] {
                if let Some(limit) = limit.filter(|limit| !(1..=max).contains(limit)) {
                    return refuse(format!("{name}.{unit} = {limit} isn't within 1 to {max}"));
                }
            }
            if let (Some(soft), Some(hard)) = (soft, hard)
                && soft >= hard
            {
                return refuse(format!("soft.{unit} = {soft} isn't below hard.{unit} = {hard}"));
            }
        }
        Ok(())
    }
}

/// What has been reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Time for a rekey.
    Soft,
    /// The end.
    Hard,
}

/// What was used up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Octets.
    Bytes,
    /// Packets.
    Packets,
    /// Time.
    Seconds,
    /// Sequence numbers: without ESN there are 2^32 - 1.
    Sequence,
}

impl Limit {
    /// The name in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Limit::Soft => "soft",
            Limit::Hard => "hard",
        }
    }
}

impl Unit {
    /// All of them.
    const ALL: [Unit; 4] = [Unit::Bytes, Unit::Packets, Unit::Seconds, Unit::Sequence];

    /// The name in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Packets => "packets",
            Unit::Seconds => "seconds",
            Unit::Sequence => "sequence",
        }
    }
}

/// What traffic may use of an SA.
#[derive(Debug)]
pub(super) struct Allowance {
    soft_octets: u64,
    hard_octets: u64,
    soft_packets: u64,
    hard_packets: u64,
    soft_seq: SeqNo,
    last_seq: SeqNo,
}

impl Allowance {
    /// Of an SA whose sequence numbers end with `last_seq`.
    pub(super) fn new(lifetime: &Lifetime, last_seq: SeqNo) -> Allowance {
        let Lifetime { soft, hard } = lifetime;
        let or_none = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Allowance {
            soft_octets: or_none(soft.bytes),
            hard_octets: or_none(hard.bytes),
            soft_packets: or_none(soft.packets),
            hard_packets: or_none(hard.packets),
            // The last sixteenth is for the rekey: without ESN four minutes at a million packets a second.
            soft_seq: SeqNo(last_seq.0 - last_seq.0 / 16),
            last_seq,
        }
    }

    /// The first sequence number at which one of the limits may be reached: any, where octets or packets are limited.
    pub(super) fn attention(&self) -> SeqNo {
        let unlimited = [self.soft_octets, self.hard_octets, self.soft_packets, self.hard_packets] == [u64::MAX; 4];
        if unlimited { self.soft_seq } else { SeqNo(0) }
    }

    /// Notes the worst limit that an SA has reached with what has come on it, up to this number; gives it if it is news.
    pub(super) fn reach(&self, used: &SaTotals, newest: SeqNo, phase: &Phase) -> Option<(Limit, Unit)> {
        let (limit, unit) = self.reached(used.packets, used.octets, newest)?;
        phase.reach(limit, unit).then_some((limit, unit))
    }

    /// The worst limit that is reached by so many packets and octets, and this number.
    fn reached(&self, packets: u64, octets: u64, newest: SeqNo) -> Option<(Limit, Unit)> {
        let reached = [
            (octets >= self.hard_octets, Limit::Hard, Unit::Bytes),
            (packets >= self.hard_packets, Limit::Hard, Unit::Packets),
            (newest >= self.last_seq, Limit::Hard, Unit::Sequence),
            (octets >= self.soft_octets, Limit::Soft, Unit::Bytes),
            (packets >= self.soft_packets, Limit::Soft, Unit::Packets),
            (newest >= self.soft_seq, Limit::Soft, Unit::Sequence),
        ];
        reached.into_iter().find(|(reached, ..)| *reached).map(|(_, limit, unit)| (limit, unit))
    }
}

/// The last limit that an SA has reached. It only grows, whoever notices first.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

impl Phase {
    /// Notes that a limit is reached; true if it, or a worse one, wasn't known before.
    pub fn reach(&self, limit: Limit, unit: Unit) -> bool {
        // A limit in the bits above its unit: a hard one is greater than any soft one.
        let code = (limit as u8 + 1) << 4 | unit as u8;
        self.0.fetch_max(code, Relaxed) >> 4 <= limit as u8
    }

    /// What has been reached.
    pub fn get(&self) -> Option<(Limit, Unit)> {
        let code = self.0.load(Relaxed);
        let limit = match code >> 4 {
            0 => return None,
            1 => Limit::Soft,
            _ => Limit::Hard,
        };
        Unit::ALL.get(usize::from(code & 0xF)).map(|unit| (limit, *unit))
    }

    /// Whether the SA may not be used any more.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.0.load(Relaxed) >> 4 > Limit::Hard as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_told_once_and_never_goes_back() {
        let phase = Phase::default();
        assert_eq!(phase.get(), None);
        assert!(phase.reach(Limit::Soft, Unit::Packets));
        assert!(!phase.reach(Limit::Soft, Unit::Seconds), "soft is soft, whatever for");
        assert_eq!(phase.get().map(|(limit, _)| limit), Some(Limit::Soft));
        assert!(!phase.is_over());
        assert!(phase.reach(Limit::Hard, Unit::Bytes));
        assert_eq!(phase.get(), Some((Limit::Hard, Unit::Bytes)));
        assert!(!phase.reach(Limit::Soft, Unit::Sequence));
        assert!(!phase.reach(Limit::Hard, Unit::Sequence));
        assert!(phase.is_over());
        let phase = Phase::default();
        assert!(phase.reach(Limit::Hard, Unit::Bytes), "past soft in one step");
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let check = |json: serde_json::Value| {
            serde_json::from_value::<Lifetime>(json).unwrap().check().map_err(|error| error.to_string())
        };
        let refused = |json, message: &str| assert_eq!(check(json), Err(format!("lifetime: {message}")));
        assert_eq!(
            check(serde_json::json!({"soft": {"seconds": 3000}, "hard": {"seconds": 3600, "bytes": 1}})),
            Ok(())
        );
        refused(serde_json::json!({"hard": {"packets": 0}}), "hard.packets = 0 isn't within 1 to 9223372036854775807");
        refused(
            serde_json::json!({"soft": {"bytes": 5}, "hard": {"bytes": 5}}),
            "soft.bytes = 5 isn't below hard.bytes = 5",
        );
        refused(
            serde_json::json!({"soft": {"seconds": u64::MAX}}),
            "soft.seconds = 18446744073709551615 isn't within 1 to 315360000",
        );
    }
}
