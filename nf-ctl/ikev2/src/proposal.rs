//! What we offer and accept, in strongSwan's notation, and the choice among what a peer offers (RFC 7296 3.3).
//!
//! A proposal is a list of algorithms joined by hyphens, such as `aes128gcm16-prfsha256-x25519` for an IKE SA and
//! `aes256-sha256-modp2048-noesn` for a CHILD_SA. Several algorithms of a kind are alternatives, the preferred one first.

use std::fmt;
use std::str::FromStr;

use crate::crypto::cipher::{AesKey, IkeCipher};
use crate::crypto::dh::DhGroup;
use crate::crypto::esp::{EspCipher, EspSuite, GcmIcv};
use crate::crypto::integrity::Integrity;
use crate::crypto::keys::IkeSuite;
use crate::crypto::prf::Prf;
use crate::wire::{EncrId, EsnId, IntegId, PrfId, Proposal, ProtocolId, Sa, Spi, Transform, TransformId};

/// Algorithms for an IKE SA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeProposal {
    ciphers: Vec<IkeCipher>,
    integrity: Vec<Integrity>,
    prfs: Vec<Prf>,
    groups: Vec<DhGroup>,
}

/// Algorithms for a CHILD_SA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EspProposal {
    ciphers: Vec<EspCipher>,
    integrity: Vec<Integrity>,
    groups: Vec<DhGroup>,
    esn: Vec<bool>,
}

/// Why a text isn't a proposal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposalError {
    /// A token that names nothing.
    #[error("'{token}' in proposal '{proposal}' is no algorithm known here; use {known}")]
    Unknown {
        /// The token.
        token: String,
        /// Where it stands.
        proposal: String,
        /// What could stand there.
        known: &'static str,
    },
    /// A kind of algorithm that is needed isn't there.
    #[error("proposal '{proposal}' names no {kind}; add one of {known}")]
    Missing {
        /// The proposal.
        proposal: String,
        /// What is missing.
        kind: &'static str,
        /// What could be added.
        known: &'static str,
    },
    /// Ciphers that authenticate and such that don't, in one proposal.
    #[error("proposal '{proposal}' mixes AEAD ciphers with others (RFC 7296 3.3); write two proposals")]
    Mixed {
        /// The proposal.
        proposal: String,
    },
    /// An integrity algorithm beside a cipher that needs none.
    #[error("proposal '{proposal}' has '{token}' beside an AEAD cipher, which authenticates by itself; remove it")]
    Needless {
        /// The algorithm.
        token: Integrity,
        /// The proposal.
        proposal: String,
    },
}

const IKE_CIPHERS: &str = "aes128gcm16, aes192gcm16, aes256gcm16, aes128, aes192, aes256";
const INTEGRITY: &str = "sha256, sha384, sha512";
const PRFS: &str = "prfsha256, prfsha384, prfsha512";
const GROUPS: &str = "x25519, ecp256, ecp384, modp2048";
const IKE_TOKENS: &str = "aes128gcm16, aes256gcm16, aes128, aes256, sha256, sha384, sha512, prfsha256, prfsha384, \
                          prfsha512, x25519, ecp256, ecp384, modp2048";
const ESP_CIPHERS: &str = "aes128gcm16, aes256gcm16, aes128gcm12, aes128gcm8, chacha20poly1305, aes128, aes256, null";
const ESP_TOKENS: &str = "aes128gcm16, aes256gcm16, chacha20poly1305, aes128, aes256, null, sha1, sha256, sha384, \
                          sha512, x25519, ecp256, ecp384, modp2048, esn, noesn";

fn integrity(token: &str) -> Option<Integrity> {
    match token {
        "sha1" => Some(Integrity::HmacSha1_96),
        "sha256" | "sha2_256" => Some(Integrity::HmacSha256_128),
        "sha384" | "sha2_384" => Some(Integrity::HmacSha384_192),
        "sha512" | "sha2_512" => Some(Integrity::HmacSha512_256),
        _ => None,
    }
}

fn group(token: &str) -> Option<DhGroup> {
    match token {
        "curve25519" => Some(DhGroup::X25519),
        _ => DhGroup::ALL.into_iter().find(|group| group.to_string() == token),
    }
}

fn prf(token: &str) -> Option<Prf> {
    Prf::ALL.into_iter().find(|prf| prf.to_string() == token)
}

/// The key length of a token such as `aes128gcm16`, and what follows it.
fn aes(token: &str) -> Option<(AesKey, &str)> {
    let rest = token.strip_prefix("aes")?;
    AesKey::ALL.into_iter().find_map(|key| Some((key, rest.strip_prefix(&key.bits().to_string())?))).or({
        // strongSwan takes a bare "aes" for 128 bits.
        Some((AesKey::Bits128, rest))
    })
}

fn ike_cipher(token: &str) -> Option<IkeCipher> {
    match aes(token)? {
        (key, "gcm16" | "gcm128" | "gcm") => Some(IkeCipher::AesGcm16(key)),
        (key, "") => Some(IkeCipher::AesCbc(key)),
        _ => None,
    }
}

fn esp_cipher(token: &str) -> Option<EspCipher> {
    match token {
        "chacha20poly1305" => return Some(EspCipher::ChaCha20Poly1305),
        "null" => return Some(EspCipher::Null),
        _ => {}
    }
    match aes(token)? {
        (key, "gcm16" | "gcm128" | "gcm") => Some(EspCipher::AesGcm(key, GcmIcv::Octets16)),
        (key, "gcm12" | "gcm96") => Some(EspCipher::AesGcm(key, GcmIcv::Octets12)),
        (key, "gcm8" | "gcm64") => Some(EspCipher::AesGcm(key, GcmIcv::Octets8)),
        (key, "") => Some(EspCipher::AesCbc(key)),
        _ => None,
    }
}

/// The rules about AEADs and integrity algorithms that IKE and ESP share.
fn check_integrity(proposal: &str, aead: &[bool], integrity: &[Integrity]) -> Result<(), ProposalError> {
    let proposal = || proposal.to_owned();
    let all_aead = aead.iter().all(|aead| *aead);
    if !all_aead && aead.contains(&true) {
        return Err(ProposalError::Mixed { proposal: proposal() });
    }
    match integrity.first() {
        Some(token) if all_aead => Err(ProposalError::Needless { token: *token, proposal: proposal() }),
        None if !all_aead => {
            Err(ProposalError::Missing { proposal: proposal(), kind: "integrity algorithm", known: INTEGRITY })
        }
        _ => Ok(()),
    }
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    /// Where no PRF is named, the integrity algorithms give it, as in strongSwan.
    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let mut proposal = IkeProposal { ciphers: vec![], integrity: vec![], prfs: vec![], groups: vec![] };
        for token in text.split('-') {
            if let Some(cipher) = ike_cipher(token) {
                proposal.ciphers.push(cipher);
            } else if let Some(integrity) = integrity(token).filter(|found| *found != Integrity::HmacSha1_96) {
                proposal.integrity.push(integrity);
            } else if let Some(prf) = prf(token) {
                proposal.prfs.push(prf);
            } else if let Some(group) = group(token) {
                proposal.groups.push(group);
            } else {
                return Err(ProposalError::Unknown { token: token.into(), proposal: text.into(), known: IKE_TOKENS });
            }
        }
        let missing = |kind, known| ProposalError::Missing { proposal: text.into(), kind, known };
        if proposal.ciphers.is_empty() {
            return Err(missing("cipher", IKE_CIPHERS));
        }
        let aead: Vec<bool> = proposal.ciphers.iter().map(|cipher| cipher.is_aead()).collect();
        check_integrity(text, &aead, &proposal.integrity)?;
        if proposal.prfs.is_empty() {
            proposal.prfs = proposal.integrity.iter().filter_map(|integrity| prf(&format!("prf{integrity}"))).collect();
        }
        if proposal.prfs.is_empty() {
            return Err(missing("pseudorandom function", PRFS));
        }
        if proposal.groups.is_empty() {
            return Err(missing("Diffie-Hellman group", GROUPS));
        }
        Ok(proposal)
    }
}

impl FromStr for EspProposal {
    type Err = ProposalError;

    /// Without `esn` or `noesn`: no extended sequence numbers.
    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let mut proposal = EspProposal { ciphers: vec![], integrity: vec![], groups: vec![], esn: vec![] };
        for token in text.split('-') {
            if let Some(cipher) = esp_cipher(token) {
                proposal.ciphers.push(cipher);
            } else if let Some(integrity) = integrity(token) {
                proposal.integrity.push(integrity);
            } else if let Some(group) = group(token) {
                proposal.groups.push(group);
            } else if let "esn" | "noesn" = token {
                proposal.esn.push(token == "esn");
            } else {
                return Err(ProposalError::Unknown { token: token.into(), proposal: text.into(), known: ESP_TOKENS });
            }
        }
        if proposal.ciphers.is_empty() {
            return Err(ProposalError::Missing { proposal: text.into(), kind: "cipher", known: ESP_CIPHERS });
        }
        let aead: Vec<bool> = proposal.ciphers.iter().map(|cipher| cipher.is_aead()).collect();
        check_integrity(text, &aead, &proposal.integrity)?;
        if proposal.esn.is_empty() {
            proposal.esn.push(false);
        }
        Ok(proposal)
    }
}

/// The names, joined by hyphens.
fn join(f: &mut fmt::Formatter<'_>, names: impl IntoIterator<Item = String>) -> fmt::Result {
    let names: Vec<String> = names.into_iter().collect();
    f.write_str(&names.join("-"))
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.ciphers.iter().map(ToString::to_string).chain(self.integrity.iter().map(ToString::to_string));
        let names = names.chain(self.prfs.iter().map(ToString::to_string));
        join(f, names.chain(self.groups.iter().map(ToString::to_string)))
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.ciphers.iter().map(ToString::to_string).chain(self.integrity.iter().map(ToString::to_string));
        let names = names.chain(self.groups.iter().map(ToString::to_string));
        join(f, names.chain(self.esn.iter().map(|esn| if *esn { "esn" } else { "noesn" }.to_owned())))
    }
}

fn encr(id: u16, key_bits: Option<u16>) -> Transform {
    let transform = Transform::new(TransformId::Encr(EncrId(id)));
    match key_bits {
        Some(bits) => transform.with_key_length(bits),
        None => transform,
    }
}

fn integ(integrity: Integrity) -> Transform {
    Transform::new(TransformId::Integ(IntegId(integrity.transform_id())))
}

fn dh(group: DhGroup) -> Transform {
    Transform::new(TransformId::Dh(crate::wire::DhGroup(group.transform_id())))
}

fn esn(esn: bool) -> Transform {
    Transform::new(TransformId::Esn(if esn { EsnId::YES } else { EsnId::NO }))
}

impl IkeProposal {
    /// The groups, the preferred one first.
    pub fn groups(&self) -> &[DhGroup] {
        &self.groups
    }

    fn transforms(&self) -> Vec<Transform> {
        let mut transforms: Vec<Transform> =
            self.ciphers.iter().map(|cipher| encr(cipher.transform_id(), Some(cipher.key().bits()))).collect();
        transforms.extend(self.integrity.iter().map(|integrity| integ(*integrity)));
        transforms.extend(self.prfs.iter().map(|prf| Transform::new(TransformId::Prf(PrfId(prf.transform_id())))));
        transforms.extend(self.groups.iter().map(|group| dh(*group)));
        transforms
    }

    /// The best suite of ours that is in the peer's proposal.
    fn select(&self, offer: &Offer<'_>) -> Option<IkeSuite> {
        let cipher =
            *self.ciphers.iter().find(|cipher| offer.has_encr(cipher.transform_id(), Some(cipher.key().bits())))?;
        Some(IkeSuite {
            cipher,
            integrity: offer.select_integrity(cipher.is_aead(), &self.integrity)?,
            prf: *self.prfs.iter().find(|prf| offer.has(TransformId::Prf(PrfId(prf.transform_id()))))?,
            group: *self.groups.iter().find(|group| offer.has_group(**group))?,
        })
    }
}

impl EspProposal {
    /// The groups for fresh exchanges, the preferred one first; none: no such exchange.
    pub fn groups(&self) -> &[DhGroup] {
        &self.groups
    }

    fn transforms(&self, with_groups: bool) -> Vec<Transform> {
        let mut transforms: Vec<Transform> =
            self.ciphers.iter().map(|cipher| encr(cipher.transform_id(), cipher.key_bits())).collect();
        transforms.extend(self.integrity.iter().map(|integrity| integ(*integrity)));
        if with_groups {
            transforms.extend(self.groups.iter().map(|group| dh(*group)));
        }
        transforms.extend(self.esn.iter().map(|with| esn(*with)));
        transforms
    }

    fn select(&self, offer: &Offer<'_>, with_groups: bool) -> Option<EspSuite> {
        let cipher = *self.ciphers.iter().find(|cipher| offer.has_encr(cipher.transform_id(), cipher.key_bits()))?;
        let integrity = offer.select_integrity(cipher.is_aead(), &self.integrity)?;
        let group = match (with_groups && !self.groups.is_empty(), offer.groups().next().is_some()) {
            (true, true) => Some(*self.groups.iter().find(|group| offer.has_group(**group))?),
            (false, true) if with_groups => return None,
            (true, false) => return None,
            _ => None,
        };
        // A peer that leaves the transform out means "no" (RFC 7296 3.3.3 makes it mandatory, not everybody sends it).
        let offers_esn = |with: bool| {
            offer.has(TransformId::Esn(if with { EsnId::YES } else { EsnId::NO })) || (!with && !offer.names_esn())
        };
        let esn = *self.esn.iter().find(|with| offers_esn(**with))?;
        Some(EspSuite { cipher, integrity, esn, group })
    }
}

/// A proposal of a peer's. A transform with an attribute that isn't known is as if it weren't there, and a proposal with a
/// transform type that isn't known can't be chosen (RFC 7296 3.3.6).
struct Offer<'a>(&'a Proposal);

impl<'a> Offer<'a> {
    fn new(proposal: &'a Proposal, protocol: ProtocolId) -> Option<Self> {
        let known = proposal.transforms.iter().all(|transform| !matches!(transform.id, TransformId::Other(..)));
        (proposal.protocol == protocol && known).then_some(Offer(proposal))
    }

    fn usable(&self) -> impl Iterator<Item = &'a Transform> {
        self.0.transforms.iter().filter(|transform| transform.unknown_attributes.is_empty())
    }

    fn has(&self, id: TransformId) -> bool {
        self.usable().any(|transform| transform.id == id && transform.key_length.is_none())
    }

    fn has_encr(&self, id: u16, key_bits: Option<u16>) -> bool {
        self.usable().any(|transform| transform.id == TransformId::Encr(EncrId(id)) && transform.key_length == key_bits)
    }

    fn groups(&self) -> impl Iterator<Item = crate::wire::DhGroup> {
        self.usable().filter_map(|transform| match transform.id {
            TransformId::Dh(group) if group != crate::wire::DhGroup::NONE => Some(group),
            _ => None,
        })
    }

    fn has_group(&self, group: DhGroup) -> bool {
        self.groups().any(|offered| offered.0 == group.transform_id())
    }

    fn names_esn(&self) -> bool {
        self.0.transforms.iter().any(|transform| matches!(transform.id, TransformId::Esn(_)))
    }

    /// `Some(None)` for an AEAD; beside one, a peer may offer nothing or NONE (RFC 7296 3.3.3).
    fn select_integrity(&self, aead: bool, ours: &[Integrity]) -> Option<Option<Integrity>> {
        if !aead {
            let offered = |integrity: &&Integrity| self.has(TransformId::Integ(IntegId(integrity.transform_id())));
            return ours.iter().find(offered).map(|integrity| Some(*integrity));
        }
        let mut integs = self.usable().filter_map(|transform| match transform.id {
            TransformId::Integ(id) => Some(id),
            _ => None,
        });
        let first = integs.next();
        (first.is_none() || first == Some(IntegId::NONE) || integs.any(|id| id == IntegId::NONE)).then_some(None)
    }
}

/// The SA payload with our proposals for an IKE SA; the SPI is given when an IKE SA is rekeyed.
pub(crate) fn offer_ike(proposals: &[IkeProposal], spi: &Spi) -> Sa {
    number(proposals.iter().map(|proposal| (ProtocolId::IKE, spi.clone(), proposal.transforms())))
}

/// The SA payload with our proposals for a CHILD_SA. Groups are left out in IKE_AUTH, where no exchange of their own takes
/// place (RFC 7296 1.2).
pub(crate) fn offer_esp(proposals: &[EspProposal], spi: &Spi, with_groups: bool) -> Sa {
    number(proposals.iter().map(|proposal| (ProtocolId::ESP, spi.clone(), proposal.transforms(with_groups))))
}

fn number(proposals: impl Iterator<Item = (ProtocolId, Spi, Vec<Transform>)>) -> Sa {
    let proposals = (1..=u8::MAX)
        .zip(proposals)
        .map(|(number, (protocol, spi, transforms))| Proposal { number, protocol, spi, transforms })
        .collect();
    Sa { proposals }
}

/// What was chosen: the suite, the peer's SPI, and the number to answer with.
#[derive(Clone, Debug)]
pub(crate) struct Chosen<S> {
    pub suite: S,
    pub spi: Spi,
    pub number: u8,
}

/// Chooses for an IKE SA: the first of our proposals that meets one of the peer's. `preferred` is the group for which the
/// peer has sent a public value: where it is among the possible ones, a round trip is saved.
pub(crate) fn choose_ike(ours: &[IkeProposal], theirs: &Sa, preferred: Option<u16>) -> Option<Chosen<IkeSuite>> {
    let mut first = None;
    for proposal in ours {
        for offer in theirs.proposals.iter().filter_map(|theirs| Offer::new(theirs, ProtocolId::IKE)) {
            let Some(suite) = proposal.select(&offer) else { continue };
            let (spi, number) = (offer.0.spi.clone(), offer.0.number);
            let with = |group| IkeSuite { group, ..suite };
            let sent = proposal.groups.iter().find(|group| Some(group.transform_id()) == preferred);
            if let Some(group) = sent.filter(|group| offer.has_group(**group)) {
                return Some(Chosen { suite: with(*group), spi, number });
            }
            first.get_or_insert(Chosen { suite, spi, number });
        }
    }
    first
}

/// Chooses for a CHILD_SA.
pub(crate) fn choose_esp(
    ours: &[EspProposal],
    theirs: &Sa,
    with_groups: bool,
    preferred: Option<u16>,
) -> Option<Chosen<EspSuite>> {
    let mut first = None;
    for proposal in ours {
        for offer in theirs.proposals.iter().filter_map(|theirs| Offer::new(theirs, ProtocolId::ESP)) {
            let Some(suite) = proposal.select(&offer, with_groups) else { continue };
            let (spi, number) = (offer.0.spi.clone(), offer.0.number);
            let sent = proposal.groups.iter().find(|group| with_groups && Some(group.transform_id()) == preferred);
            if suite.group.is_none() {
                return Some(Chosen { suite, spi, number });
            }
            if let Some(group) = sent.filter(|group| offer.has_group(**group)) {
                return Some(Chosen { suite: EspSuite { group: Some(*group), ..suite }, spi, number });
            }
            first.get_or_insert(Chosen { suite, spi, number });
        }
    }
    first
}

impl Chosen<IkeSuite> {
    /// The SA payload of the answer, with our SPI where an IKE SA is rekeyed.
    pub(crate) fn answer(&self, spi: Spi) -> Sa {
        let suite = &self.suite;
        let proposal = IkeProposal {
            ciphers: vec![suite.cipher],
            integrity: suite.integrity.into_iter().collect(),
            prfs: vec![suite.prf],
            groups: vec![suite.group],
        };
        let transforms = proposal.transforms();
        Sa { proposals: vec![Proposal { number: self.number, protocol: ProtocolId::IKE, spi, transforms }] }
    }
}

impl Chosen<EspSuite> {
    /// The SA payload of the answer, with our inbound SPI.
    pub(crate) fn answer(&self, spi: Spi) -> Sa {
        let suite = &self.suite;
        let proposal = EspProposal {
            ciphers: vec![suite.cipher],
            integrity: suite.integrity.into_iter().collect(),
            groups: suite.group.into_iter().collect(),
            esn: vec![suite.esn],
        };
        let transforms = proposal.transforms(true);
        Sa { proposals: vec![Proposal { number: self.number, protocol: ProtocolId::ESP, spi, transforms }] }
    }
}

/// The IKE suite of an answer, which must be one proposal that one of ours contains.
pub(crate) fn accept_ike_answer(ours: &[IkeProposal], answer: &Sa) -> Option<Chosen<IkeSuite>> {
    single(answer).then(|| choose_ike(ours, answer, None)).flatten()
}

/// The ESP suite of an answer.
pub(crate) fn accept_esp_answer(ours: &[EspProposal], answer: &Sa, with_groups: bool) -> Option<Chosen<EspSuite>> {
    single(answer).then(|| choose_esp(ours, answer, with_groups, None)).flatten()
}

/// True where nothing is left to choose: one proposal, one transform of each type (RFC 7296 2.7).
fn single(answer: &Sa) -> bool {
    let [proposal] = answer.proposals.as_slice() else { return false };
    let mut kinds: Vec<_> = proposal.transforms.iter().map(|transform| transform.id.kind()).collect();
    kinds.sort_unstable();
    let all = kinds.len();
    kinds.dedup();
    kinds.len() == all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ike(text: &str) -> IkeProposal {
        text.parse().unwrap()
    }

    fn esp(text: &str) -> EspProposal {
        text.parse().unwrap()
    }

    #[test]
    fn notation_is_read_and_written() {
        for text in ["aes128gcm16-prfsha256-x25519", "aes256-aes128-sha256-sha512-prfsha384-ecp256-modp2048"] {
            assert_eq!(ike(text).to_string(), text);
        }
        assert_eq!(ike("aes128-sha384-ecp384").to_string(), "aes128-sha384-prfsha384-ecp384");
        assert_eq!(ike("aes-sha256-curve25519").to_string(), "aes128-sha256-prfsha256-x25519");
        for text in ["aes128gcm8-noesn", "chacha20poly1305-x25519-esn-noesn", "null-sha1-noesn", "aes192gcm12-esn"] {
            assert_eq!(esp(text).to_string(), text);
        }
        assert_eq!(esp("aes256-sha512").to_string(), "aes256-sha512-noesn");
    }

    #[test]
    fn errors_name_the_token_and_the_fix() {
        let ike = |text: &str| text.parse::<IkeProposal>().unwrap_err().to_string();
        let esp = |text: &str| text.parse::<EspProposal>().unwrap_err().to_string();
        assert!(ike("aes128gcm16-prfsha256-x25518").starts_with("'x25518' in proposal 'aes128gcm16-prfsha256-x25518'"));
        assert!(ike("aes128gcm16-x25519").contains("names no pseudorandom function; add one of prfsha256"));
        assert!(ike("aes128gcm16-prfsha256").contains("names no Diffie-Hellman group"));
        assert!(ike("aes128-x25519-prfsha256").contains("names no integrity algorithm"));
        assert!(ike("aes128-aes128gcm16-sha256-x25519").contains("mixes AEAD"));
        assert!(ike("aes128-sha1-x25519").starts_with("'sha1'"));
        assert!(ike("").starts_with("''"));
        assert!(ike("prfsha256-x25519").contains("names no cipher"));
        assert!(esp("aes128gcm16-sha256").contains("remove it"));
        assert!(esp("null").contains("names no integrity algorithm"));
        assert!(esp("aes128gcm9").starts_with("'aes128gcm9'"));
    }

    #[test]
    fn our_order_decides_and_the_sent_group_is_kept() {
        let ours = [ike("aes256gcm16-prfsha384-x25519-ecp384"), ike("aes128-sha256-modp2048")];
        let theirs =
            offer_ike(&[ike("aes128-sha256-modp2048"), ike("aes256gcm16-prfsha384-ecp384-x25519")], &Spi::None);
        let chosen = choose_ike(&ours, &theirs, Some(DhGroup::Ecp384.transform_id())).unwrap();
        assert_eq!(chosen.suite.to_string(), "aes256gcm16-prfsha384-ecp384");
        assert_eq!(chosen.number, 2);
        let chosen = choose_ike(&ours, &theirs, None).unwrap();
        assert_eq!(chosen.suite.group, DhGroup::X25519);
        let answer = chosen.answer(Spi::None);
        assert_eq!(accept_ike_answer(&ours, &answer).unwrap().suite, chosen.suite);
        assert!(choose_ike(&[ike("aes256-sha256-x25519")], &theirs, None).is_none());
    }

    #[test]
    fn an_answer_that_leaves_a_choice_or_was_never_offered_is_refused() {
        let ours = [ike("aes256-aes128-sha256-x25519")];
        assert!(accept_ike_answer(&ours, &offer_ike(&ours, &Spi::None)).is_none());
        assert!(accept_ike_answer(&ours, &offer_ike(&[ike("aes192-sha256-x25519")], &Spi::None)).is_none());
        assert!(accept_ike_answer(&ours, &Sa::default()).is_none());
    }

    #[test]
    fn groups_of_esp_must_agree_but_in_ike_auth() {
        let with = [esp("aes128gcm16-x25519-ecp256")];
        let without = [esp("aes128gcm16")];
        let offer = offer_esp(&with, &Spi::None, true);
        assert!(choose_esp(&without, &offer, true, None).is_none());
        assert!(choose_esp(&with, &offer_esp(&without, &Spi::None, true), true, None).is_none());
        let chosen = choose_esp(&with, &offer, true, Some(DhGroup::Ecp256.transform_id())).unwrap();
        assert_eq!(chosen.suite.group, Some(DhGroup::Ecp256));
        let in_auth = choose_esp(&with, &offer_esp(&with, &Spi::None, false), false, None).unwrap();
        assert_eq!(in_auth.suite.group, None);
    }

    #[test]
    fn extended_sequence_numbers_are_negotiated() {
        let chosen = |ours: &str, theirs: &str| {
            choose_esp(&[esp(ours)], &offer_esp(&[esp(theirs)], &Spi::None, false), false, None).map(|c| c.suite.esn)
        };
        assert_eq!(chosen("aes128gcm16-esn-noesn", "aes128gcm16-noesn"), Some(false));
        assert_eq!(chosen("aes128gcm16-esn-noesn", "aes128gcm16-noesn-esn"), Some(true));
        assert_eq!(chosen("aes128gcm16-esn", "aes128gcm16"), None);
        let mut offer = offer_esp(&[esp("aes128gcm16")], &Spi::None, false);
        offer.proposals[0].transforms.retain(|transform| !matches!(transform.id, TransformId::Esn(_)));
        assert!(choose_esp(&[esp("aes128gcm16")], &offer, false, None).is_some());
        assert!(choose_esp(&[esp("aes128gcm16-esn")], &offer, false, None).is_none());
    }

    #[test]
    fn what_is_unknown_is_not_chosen() {
        let ours = [ike("aes128gcm16-prfsha256-x25519")];
        let mut offer = offer_ike(&ours, &Spi::None);
        offer.proposals[0].transforms.push(Transform::new(TransformId::Other(crate::wire::TransformType::ADDKE1, 36)));
        assert!(choose_ike(&ours, &offer, None).is_none());
        let mut offer = offer_ike(&ours, &Spi::None);
        offer.proposals[0].transforms[0].unknown_attributes.push(crate::wire::Attribute {
            kind: crate::wire::AttributeType(99),
            value: crate::wire::AttributeValue::Short(1),
        });
        assert!(choose_ike(&ours, &offer, None).is_none());
    }
}
