//! Messages outside of any IKE SA: hints and answers that prove nothing, within a budget (RFC 7296 1.5, 2.21.4, RFC 6290).

use std::net::SocketAddr;

use super::Endpoint;
use crate::event::{Event, Notice, Transmit};
use crate::qcd;
use crate::wire::{
    self, ChildSpi, ExchangeType, Flags, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload, Version,
};

impl Endpoint {
    /// Tells a host, without proof, that we don't know an SPI that it sends to: for peers that we may not initiate to and
    /// have no IKE SA with. Where its packets come in UDP, `remote` has their source port. Returns false where the
    /// budget for such messages is used up.
    pub fn send_invalid_spi_hint(
        &mut self,
        now: std::time::Instant,
        local: SocketAddr,
        remote: SocketAddr,
        spi: ChildSpi,
    ) -> bool {
        if !self.unprotected.allow(now) {
            return false;
        }
        let mut initiator_spi = [0; 8];
        self.rng.fill_bytes(&mut initiator_spi);
        let header = Header {
            initiator_spi: IkeSpi(initiator_spi),
            responder_spi: IkeSpi::ZERO,
            version: Version::V2,
            exchange: ExchangeType::INFORMATIONAL,
            flags: Flags { initiator: true, ..Flags::default() },
            message_id: MessageId(0),
        };
        self.emit_unprotected(local, remote, &header, vec![Payload::Notify(Notify::invalid_spi(spi))]);
        true
    }

    /// A message for an IKE SA that isn't here.
    pub(super) fn handle_stray(
        &mut self,
        now: std::time::Instant,
        path: (SocketAddr, SocketAddr),
        header: &Header,
        datagram: &[u8],
    ) {
        if header.flags.response {
            return;
        }
        let Ok(message) = Message::parse(datagram) else { return };
        if message.sk.is_some() {
            self.answer_unknown_ike_spi(now, path, header);
        } else if header.exchange == ExchangeType::INFORMATIONAL
            && let Some(notify) = message.payloads.notify(NotifyType::INVALID_SPI)
        {
            self.take_invalid_spi_hint(now, path.1, notify.spi_of_packet());
        }
    }

    /// A protected request for an IKE SA that we don't have, or don't have any more. With the token the peer can tell that
    /// it is us who say so. It never goes out for an IKE SA that lives, which is what makes it worth something.
    fn answer_unknown_ike_spi(
        &mut self,
        now: std::time::Instant,
        (local, remote): (SocketAddr, SocketAddr),
        header: &Header,
    ) {
        if !self.unprotected.allow(now) {
            return;
        }
        // A peer may use a rekeyed IKE SA before its answer, which makes it ours, has reached us.
        let ours = if header.flags.initiator { header.responder_spi } else { header.initiator_spi };
        if self.sas.values().any(|sa| sa.offered_spi() == Some(ours)) {
            return;
        }
        let answer = Header {
            version: Version::V2,
            flags: Flags { initiator: !header.flags.initiator, higher_version: false, response: true },
            ..*header
        };
        let mut payloads = vec![Payload::Notify(Notify::new(NotifyType::INVALID_IKE_SPI))];
        payloads.extend(qcd::token_payload(&self.config, header.initiator_spi, header.responder_spi));
        self.emit_unprotected(local, remote, &answer, payloads);
    }

    /// Somebody says that the host at this address doesn't know an SPI. Anybody can say that: nothing changes, but we ask.
    fn take_invalid_spi_hint(&mut self, now: std::time::Instant, remote: SocketAddr, spi: Option<ChildSpi>) {
        if !self.unprotected.allow(now) {
            return;
        }
        let concerned = self
            .sas
            .values()
            .filter(|sa| sa.is_established() && sa.remote.ip() == remote.ip())
            .find(|sa| spi.is_none_or(|spi| sa.children.iter().any(|child| child.outbound == spi)))
            .map(|sa| sa.id);
        let mut checking = None;
        if let Some(id) = concerned {
            self.with_sa(now, id, |sa, cx| {
                if sa.check_on_hint(cx) {
                    checking = Some(id);
                }
            });
        }
        self.out.events.push_back(Event::Notice(Notice::InvalidSpiHint { remote, spi, checking }));
    }

    /// A message of a later version of IKE: we say which one we speak (RFC 7296 2.5).
    pub(super) fn refuse_version(
        &mut self,
        now: std::time::Instant,
        (local, remote): (SocketAddr, SocketAddr),
        header: &Header,
    ) {
        if header.flags.response || header.version.major <= Version::V2.major || !self.unprotected.allow(now) {
            return;
        }
        let answer = Header {
            version: Version::V2,
            flags: Flags { initiator: !header.flags.initiator, higher_version: false, response: true },
            ..*header
        };
        self.emit_unprotected(
            local,
            remote,
            &answer,
            vec![Payload::Notify(Notify::new(NotifyType::INVALID_MAJOR_VERSION))],
        );
    }

    fn emit_unprotected(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        header: &Header,
        payloads: Vec<Payload<'static>>,
    ) {
        if let Ok(payload) = wire::emit(header, &payloads.into()) {
            self.out.transmits.push_back(Transmit { local, remote, payload });
        }
    }
}
