//! Tokens of quick crash detection (RFC 6290): the proof that a peer has lost an IKE SA.

use subtle::ConstantTimeEq;

use crate::config::EndpointConfig;
use crate::crypto::prf::Prf;
use crate::crypto::secret::Secret;
use crate::wire::{IkeSpi, Notify, NotifyType, Payload, Payloads, ProtocolId};

/// The shortest and the longest token that is taken (RFC 6290 4.1). Ours have 32 octets.
const TOKEN_LEN: std::ops::RangeInclusive<usize> = 16..=128;

/// The token of an IKE SA: a MAC over its SPIs, so that it can be made again after all else was lost (RFC 6290 5.1).
pub(crate) fn token(secret: &Secret, spi_i: IkeSpi, spi_r: IkeSpi) -> Secret {
    Prf::HmacSha256.compute(secret.expose(), &[b"QCD", &spi_i.0, &spi_r.0])
}

/// The notify with our token, where we have a secret for it. Its protocol is IKE: the exception to RFC 7296 3.10, which
/// has notifies without an SPI name none (RFC 6290 4.1).
pub(crate) fn token_payload(config: &EndpointConfig, spi_i: IkeSpi, spi_r: IkeSpi) -> Option<Payload<'static>> {
    let token = token(config.qcd_secret.as_ref()?, spi_i, spi_r);
    let notify = Notify::with_data(NotifyType::QUICK_CRASH_DETECTION, token.expose().to_vec());
    Some(Payload::Notify(Notify { protocol: ProtocolId::IKE, ..notify }))
}

/// The token in a message.
pub(crate) fn token_of(payloads: &Payloads<'_>) -> Option<Secret> {
    let notify = payloads.notify(NotifyType::QUICK_CRASH_DETECTION)?;
    TOKEN_LEN.contains(&notify.data.len()).then(|| Secret::from(&*notify.data))
}

/// Compares in constant time.
pub(crate) fn matches(expected: &Secret, token: &Secret) -> bool {
    expected.expose().ct_eq(token.expose()).into()
}
