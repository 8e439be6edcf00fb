//! What is in the state file: the SAs as nf.toml would write them, and what nf.toml can't say.

use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Refusal;
use super::marks::{Kept, OldMarks};
use crate::crypto::Transform;
use crate::sa::inbound::{SaKey, SaTotals};
use crate::sa::spec::{Direction, SaParams, SaSpec, Secret, SelectorSpec};
use crate::types::{SeqNo, Spi};

/// An SA that is to be kept.
pub struct SavedSa<'s> {
    /// Its algorithms and keys.
    pub params: &'s SaParams,
    /// Its place among the marks.
    pub kept: &'s Kept,
    /// What has come on it.
    pub totals: SaTotals,
    /// The highest number that was accepted.
    pub highest: Option<SeqNo>,
}

/// An SA of nf.toml that was deleted at run time. It comes back with nf.toml, and then it must not take what it has taken
/// before.
#[derive(Clone, Debug)]
pub struct Withdrawn {
    /// What it was found by.
    pub key: SaKey,
    /// What tells its keys from others.
    pub digest: Digest,
    /// Its place among the marks.
    pub kept: Kept,
}

/// A hash of algorithms and keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of an SA.
    pub fn of(transform: &Transform) -> Digest {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        let (integrity, auth_key) = transform.auth().map_or(("", &[][..]), |(name, key)| (name.as_str(), key));
        for part in
            [transform.cipher().as_str().as_bytes(), transform.key(), transform.salt(), integrity.as_bytes(), auth_key]
        {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Digest(hash.finalize().into())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    line: u32,
    serial: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SaRecord {
    sa: SaSpec,
    place: Place,
    configured: bool,
    installed: u64,
    packets: u64,
    octets: u64,
    highest: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WithdrawnRecord {
    spi: Spi,
    src: std::net::IpAddr,
    dst: std::net::IpAddr,
    digest: Digest,
    place: Place,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Records {
    written: u64,
    sas: Vec<SaRecord>,
    withdrawn: Vec<WithdrawnRecord>,
}

impl SaRecord {
    fn new(saved: &SavedSa<'_>) -> SaRecord {
        let SavedSa { params, kept, totals, highest } = saved;
        SaRecord {
            sa: spec(params),
            place: Place { line: kept.line, serial: kept.serial },
            configured: kept.configured,
            installed: kept.installed,
            packets: totals.packets,
            octets: totals.octets,
            highest: highest.map_or(0, |seq| seq.0),
        }
    }
}

impl Serialize for SavedSa<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SaRecord::new(self).serialize(serializer)
    }
}

impl Serialize for Withdrawn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Withdrawn { key: SaKey { spi, dst, src }, digest, kept } = *self;
        let place = Place { line: kept.line, serial: kept.serial };
        WithdrawnRecord { spi, src, dst, digest, place }.serialize(serializer)
    }
}

/// What is written: one SA after the other, so that no second copy of all keys is made.
pub(super) struct Content<F> {
    pub(super) written: u64,
    pub(super) sas: F,
}

impl<'s, F, I> Content<F>
where
    F: Fn() -> I,
    I: Iterator<Item = SavedSa<'s>>,
{
    pub(super) fn write(&self, withdrawn: &[Withdrawn], to: impl std::io::Write) -> Result<(), serde_json::Error> {
        struct Sas<'c, F>(&'c F);
        impl<'s, F: Fn() -> I, I: Iterator<Item = SavedSa<'s>>> Serialize for Sas<'_, F> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq((self.0)())
            }
        }
        #[derive(Serialize)]
        struct Whole<'c, T> {
            written: u64,
            sas: T,
            withdrawn: &'c [Withdrawn],
        }
        serde_json::to_writer(to, &Whole { written: self.written, sas: Sas(&self.sas), withdrawn })
    }
}

/// An SA in the form of nf.toml.
fn spec(params: &SaParams) -> SaSpec {
    let text = |list: &[crate::policy::Selector]| list.iter().map(ToString::to_string).collect();
    let transform = &params.transform;
    let (auth, auth_key) = transform.auth().unzip();
    let material = [transform.key(), transform.salt()];
    let outbound = params.direction == Direction::Out;
    SaSpec {
        spi: params.spi.0.to_string(),
        direction: params.direction.to_string(),
        src: params.src.to_string(),
        dst: params.dst.to_string(),
        mode: params.mode.to_string(),
        alg: transform.cipher().to_string(),
        key: (!transform.key().is_empty()).then(|| hex(&material)),
        key_file: None,
        auth: auth.map(|auth| auth.to_string()),
        auth_key: auth_key.map(|key| hex(&[key])),
        esn: transform.esn(),
        replay_window: params.replay_window.get(),
        encap: params.encap.to_string(),
        peer_port: outbound.then_some(params.peer_port),
        follows: params.follows.map(|spi| spi.0.to_string()),
        df: outbound.then(|| params.df.to_string()),
        path_mtu: params.path_mtu,
        selectors: SelectorSpec { src: text(&params.selectors.src), dst: text(&params.selectors.dst) },
        peer: params.peer.clone(),
        lifetime: params.lifetime,
    }
}

/// In hex, without a copy that would stay behind.
fn hex(parts: &[&[u8]]) -> Secret {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| 2 * part.len()).sum()));
    for octet in parts.iter().copied().flatten() {
        text.push(digit(octet >> 4));
        text.push(digit(octet & 0xF));
    }
    Secret::new(std::mem::take(&mut *text))
}

/// An SA of a predecessor.
#[derive(Debug)]
pub struct RestoredSa {
    /// The SA.
    pub params: SaParams,
    /// Whether it was one of nf.toml.
    pub configured: bool,
    /// The highest number that was accepted.
    pub highest: SeqNo,
    /// Packets that came on it.
    pub packets: u64,
    /// Octets that came on it.
    pub octets: u64,
    /// When it was installed, as [`Kept::installed`].
    pub installed: u64,
}

/// How far an SA of nf.toml had come that a predecessor has deleted.
#[derive(Debug)]
pub struct RestoredWithdrawn {
    /// What it was found by.
    pub key: SaKey,
    /// What tells its keys from others.
    pub digest: Digest,
    /// The highest number that was accepted.
    pub highest: SeqNo,
}

/// What a predecessor left.
#[derive(Debug)]
pub struct Predecessor {
    /// When it was written, by the clock that runs since the machine has started, in nanoseconds.
    pub written: u64,
    /// The SAs that it had.
    pub sas: Vec<RestoredSa>,
    /// Those of nf.toml that it had deleted.
    pub withdrawn: Vec<RestoredWithdrawn>,
}

impl Predecessor {
    pub(super) fn read(plain: &[u8], marks: &OldMarks) -> Result<Predecessor, Refusal> {
        // The messages of serde quote no string of a `Secret`.
        let records: Records = serde_json::from_slice(plain).map_err(|error| Refusal::Content(error.to_string()))?;
        let mut predecessor = Predecessor { written: records.written, sas: Vec::new(), withdrawn: Vec::new() };
        for record in records.sas {
            let Some(marked) = marks.highest(record.place.line, record.place.serial)? else {
                continue;
            };
            let params = record.sa.validate().map_err(|error| Refusal::Content(error.to_string()))?;
            // What came after the state was written: no fewer than the numbers used since, of average length.
            let since = marked.0.saturating_sub(record.highest);
            let average = record.octets.checked_div(record.packets).unwrap_or(0);
            predecessor.sas.push(RestoredSa {
                params,
                configured: record.configured,
                highest: SeqNo(marked.0.max(record.highest)),
                packets: record.packets.saturating_add(since),
                octets: record.octets.saturating_add(since.saturating_mul(average)),
                installed: record.installed,
            });
        }
        for WithdrawnRecord { spi, src, dst, digest, place } in records.withdrawn {
            let highest = marks.highest(place.line, place.serial)?.ok_or(Refusal::Marks)?;
            predecessor.withdrawn.push(RestoredWithdrawn { key: SaKey { spi, dst, src }, digest, highest });
        }
        Ok(predecessor)
    }
}
