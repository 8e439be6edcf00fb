//! The one table of drop reasons. Counters, the command line, metrics, JSON and docs derive from it; no reason is
//! declared anywhere else.
//!
//! A reason that means what a drop index of Cisco IOS XE means carries that index and name. A reason of ours has an
//! index of [`FIRST_OWN_INDEX`] or more, so that nobody takes it for Cisco's.

/// The first index of a reason that has no Cisco counterpart.
pub const FIRST_OWN_INDEX: u16 = 200;

macro_rules! global_drops {
    ($($variant:ident $name:literal $meaning:literal;)*) => {
        /// The names under which `show platform hardware qfp active statistics drop` sums IPsec drops on IOS XE.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum GlobalDrop {
            $(#[doc = $meaning] $variant,)*
        }

        impl GlobalDrop {
            /// All of them, in the order in which they are printed.
            pub const ALL: &'static [GlobalDrop] = &[$(GlobalDrop::$variant,)*];

            /// The name as IOS XE prints it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(GlobalDrop::$variant => $name,)*
                }
            }
        }
    };
}

global_drops! {
    DenyDrop    "IpsecDenyDrop"    "Outbound packets that a policy denies.";
    IkeIndicate "IpsecIkeIndicate" "Outbound packets given up to start IKE.";
    Input       "IpsecInput"       "Inbound packets that IPsec processing refused.";
    InvalidSa   "IpsecInvalidSa"   "Packets for an SA that is there but may not be used.";
    Output      "IpsecOutput"      "Outbound packets that IPsec processing refused.";
    TailDrop    "IpsecTailDrop"    "Packets that a full queue before the cipher turned away.";
    TedIndicate "IpsecTedIndicate" "Outbound packets given up to discover the tunnel's end.";
}

/// What a reason tells an operator. All texts are whole sentences.
#[derive(Clone, Copy, Debug)]
pub struct DropInfo {
    /// Cisco's drop index, or [`FIRST_OWN_INDEX`] and above.
    pub index: u16,
    /// The name in the drop table.
    pub name: &'static str,
    /// The global counter that this reason is summed under, if it is an IPsec one.
    pub global: Option<GlobalDrop>,
    /// What happened to the packet.
    pub meaning: &'static str,
    /// The likely cause.
    pub cause: &'static str,
    /// What to do about it.
    pub action: &'static str,
}

macro_rules! drop_reasons {
    ($($variant:ident $index:literal $name:ident $global:tt
        $meaning:literal $cause:literal $action:literal;)*) => {
        /// Why a packet was dropped. A dropped packet has exactly one.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $meaning] $variant,)*
        }

        impl DropReason {
            /// All reasons, by ascending index.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The reason's row of the table.
            pub const fn info(self) -> &'static DropInfo {
                match self {
                    $(DropReason::$variant => &DropInfo {
                        index: $index,
                        name: stringify!($name),
                        global: drop_reasons!(@global $global),
                        meaning: $meaning,
                        cause: $cause,
                        action: $action,
                    },)*
                }
            }
        }
    };
    (@global -) => { None };
    (@global $global:ident) => { Some(GlobalDrop::$global) };
}

drop_reasons! {
    InvalidSaV4 1 IN_V4_PKT_HIT_INVALID_SA InvalidSa
        "The packet's SA was deleted a moment ago, or its hard lifetime is over (IPv4)."
        "Late packets after a rekey: the peer had them in flight when the old SA went."
        "Nothing, while it stops within seconds. If it goes on, the peer missed the DELETE: `nf-ctl show recovery`.";
    NotEnabledV4 3 IN_US_V4_PKT_FOUND_IPSEC_NOT_ENABLED Input
        "ESP to us arrived where no decapsulation is bound (IPv4)."
        "The port's role isn't `unprotected`, or the decap plugin was unbound."
        "Check the port's role in the config and `nf-ctl plugin list`.";
    UnknownSpiV4 4 IN_US_V4_PKT_SA_NOT_FOUND_SPI Input
        "No SA has the packet's SPI (IPv4)."
        "The peer encrypts with an SA that we don't know: one side restarted or lost a rekey."
        "`nf-ctl show recovery` tells what is done about it; by hand, `nf-ctl recover PEER`.";
    TransitUnknownSpiV4 7 IN_TRANS_V4_IPSEC_PKT_NOT_FOUND_SPI Input
        "ESP that passes through, to an address that isn't ours, has an SPI that no SA knows (IPv4)."
        "A route brings traffic here that is meant for another head-end, or a `[[local]]` address is missing."
        "Check the routes towards this host, and the `[[local]]` addresses.";
    InvalidSaV6 9 IN_V6_PKT_HIT_INVALID_SA InvalidSa
        "The packet's SA was deleted a moment ago, or its hard lifetime is over (IPv6)."
        "Late packets after a rekey: the peer had them in flight when the old SA went."
        "Nothing, while it stops within seconds. If it goes on, the peer missed the DELETE: `nf-ctl show recovery`.";
    NotEnabledV6 11 IN_US_V6_PKT_FOUND_IPSEC_NOT_ENABLED Input
        "ESP to us arrived where no decapsulation is bound (IPv6)."
        "The port's role isn't `unprotected`, or the decap plugin was unbound."
        "Check the port's role in the config and `nf-ctl plugin list`.";
    UnknownSpiV6 12 IN_US_V6_PKT_SA_NOT_FOUND_SPI Input
        "No SA has the packet's SPI (IPv6)."
        "The peer encrypts with an SA that we don't know: one side restarted or lost a rekey."
        "`nf-ctl show recovery` tells what is done about it; by hand, `nf-ctl recover PEER`.";
    Replay 19 IN_CD_SW_IPSEC_ANTI_REPLAY_FAIL Input
        "The sequence number was seen before or lies left of the replay window."
        "Reordering beyond the window (QoS, several paths), a duplicating network, or an attacker's replay."
        "`nf-ctl sa show SPI` tells duplicates from late packets; for late ones enlarge `replay_window`.";
    CryptoError 20 IN_UNEXP_CD_SW_IPSEC_EXCEPTION Input
        "The crypto engine could not take the packet."
        "A fault of the engine, or of the crypto device behind it."
        "See the log for the engine's message; set `[crypto] engine = \"aes-gcm\"` to rule the device out.";
    PadOrLength 23 IN_PKT_HEADPAD_LEN_ERR Input
        "The ESP length isn't a multiple of the cipher's block, or padding or pad length is wrong."
        "A truncated packet, or a peer with another algorithm or padding than agreed."
        "Compare both sides' transforms: `nf-ctl sa show SPI`.";
    TooBigV4 25 IN_INFRA_V4_PKT_LEN_TOO_BIG Input
        "The packet is longer than the largest buffer (IPv4)."
        "A reassembled or jumbo packet of nearly 64 KiB."
        "Lower the peer's MTU.";
    TooBigV6 26 IN_INFRA_V6_PKT_LEN_TOO_BIG Input
        "The packet is longer than the largest buffer (IPv6)."
        "A reassembled or jumbo packet of nearly 64 KiB."
        "Lower the peer's MTU.";
    PolicyV4 30 IN_V4_POST_INPUT_POLICY_FAIL Input
        "The inner packet's addresses lie outside its SA's selectors (IPv4 inside)."
        "The peer sends traffic that was not negotiated, or the selectors are too narrow."
        "Compare `nf-ctl sa show SPI` with the peer's policy.";
    PolicyV6 31 IN_V6_POST_INPUT_POLICY_FAIL Input
        "The inner packet's addresses lie outside its SA's selectors (IPv6 inside)."
        "The peer sends traffic that was not negotiated, or the selectors are too narrow."
        "Compare `nf-ctl sa show SPI` with the peer's policy.";
    OutInvalidSaV4 32 OUT_V4_PKT_HIT_INVALID_SA InvalidSa
        "The packet's outbound SA has reached a hard limit of its lifetime (IPv4 inside)."
        "IKE did not rekey the SA in time."
        "`nf-ctl show crypto ikev2 sa` shows whether the peer answers; `nf-ctl recover PEER` starts anew.";
    OutIkeV4 33 OUT_V4_PKT_HIT_IKE_START_SP IkeIndicate
        "A policy protects the packet, and there is no SA yet (IPv4): IKE was told, within limits."
        "The first packets of a tunnel that is brought up on demand; or IKE gets no answer from the peer."
        "If it goes on: `nf-ctl recovery log` and the agent's log say why there is no SA; `nf-ctl sa list` shows those that there are.";
    OutDenyV4 35 OUT_V4_PKT_HIT_DENY_DROP_SP DenyDrop
        "A policy discards the packet on its way out (IPv4)."
        "A `[[policy]]` with `action = \"discard\"`."
        "Compare the packet's addresses with the policies if it should have passed.";
    OutInvalidSaV6 37 OUT_V6_PKT_HIT_INVALID_SA InvalidSa
        "The packet's outbound SA has reached a hard limit of its lifetime (IPv6 inside)."
        "IKE did not rekey the SA in time."
        "`nf-ctl show crypto ikev2 sa` shows whether the peer answers; `nf-ctl recover PEER` starts anew.";
    OutIkeV6 38 OUT_V6_PKT_HIT_IKE_START_SP IkeIndicate
        "A policy protects the packet, and there is no SA yet (IPv6): IKE was told, within limits."
        "The first packets of a tunnel that is brought up on demand; or IKE gets no answer from the peer."
        "If it goes on: `nf-ctl recovery log` and the agent's log say why there is no SA; `nf-ctl sa list` shows those that there are.";
    OutDenyV6 40 OUT_V6_PKT_HIT_DENY_DROP_SP DenyDrop
        "A policy discards the packet on its way out (IPv6)."
        "A `[[policy]]` with `action = \"discard\"`."
        "Compare the packet's addresses with the policies if it should have passed.";
    OutCryptoError 45 OUT_UNEXP_CD_SW_IPSEC_EXCEPTION Output
        "The crypto engine could not encrypt the packet."
        "A fault of the engine, or of the crypto device behind it."
        "See the log for the engine's message; set `[crypto] engine = \"aes-gcm\"` to rule the device out.";
    OutSequence 46 OUT_CD_SW_IPSEC_DETECT_SEQ_OVEFLOW Output
        "The outbound SA has no sequence numbers left (RFC 4303 3.3.3)."
        "IKE did not rekey the SA in time, or it has manual keys."
        "Rekey it; use extended sequence numbers (`esn`) for fast tunnels.";
    OutDfSet 48 OUT_CANNOT_FRAG_DF_SET_PKT Output
        "With its outer headers the packet is longer than the path's MTU, and may not be fragmented."
        "The sender takes a larger MTU for granted than the tunnel has."
        "Lower the MTU or the TCP MSS behind the tunnel, or set the SA's `df` to \"clear\".";
    OutNoRoom 49 OUT_PKT_HEADPAD_LEN_ERR Output
        "The packet's buffer has no room for outer headers, padding and ICV."
        "A packet that nearly fills its buffer, such as a jumbo frame."
        "Lower the MTU of the protected port.";
    OutTooBigV4 51 OUT_INFRA_V4_PKT_LEN_TOO_BIG Output
        "With its outer headers the packet would be longer than 65,535 octets (IPv4 inside)."
        "A packet of nearly 64 KiB."
        "Lower the MTU of the protected port.";
    OutTooBigV6 52 OUT_INFRA_V6_PKT_LEN_TOO_BIG Output
        "With its outer headers the packet would be longer than 65,535 octets (IPv6 inside)."
        "A packet of nearly 64 KiB."
        "Lower the MTU of the protected port.";
    OutPolicyV4 56 OUT_V4_POST_OUTPUT_POLICY_FAIL Output
        "The SA is in transport mode, and the packet isn't a whole one between its two ends (IPv4)."
        "Selectors of a transport mode SA that are wider than its two addresses, or a fragment."
        "Use tunnel mode between networks.";
    OutPolicyV6 57 OUT_V6_POST_OUTPUT_POLICY_FAIL Output
        "The SA is in transport mode, and the packet isn't a whole one between its two ends (IPv6)."
        "Selectors of a transport mode SA that are wider than its two addresses, or a fragment."
        "Use tunnel mode between networks.";
    AuthFailed 62 IN_CD_SW_IPSEC_MAC_EXCEPTION Input
        "The integrity check value (ICV) is wrong."
        "The keys differ, the packet was changed on its way, or it is forged."
        "If every packet of an SA fails, the sides have different keys: rekey. Else suspect the path or an attacker.";
    NatDemux 63 IN_NAT_DEMUX_FAIL Input
        "A packet on UDP 4500 is neither ESP, IKE nor a keepalive, or the SA expects the other encapsulation."
        "A NAT appeared or vanished without IKE noticing, or a foreign protocol uses the port."
        "Compare the SA's `encap` with what the peer sends; a rekey with NAT detection mends it.";
    NextHeader 65 IN_CD_SW_IPSEC_NH_MISMATCH Input
        "The ESP next header doesn't fit the SA's mode."
        "One side negotiated transport mode, the other tunnel mode."
        "Compare both sides' mode: `nf-ctl sa show SPI`.";
    FragmentV4 70 IN_V4_PKT_FRAG_ERR Input
        "A fragment that can't be reassembled: malformed, overlapping, or there was no room (IPv4)."
        "A faulty sender, a fragment flood, or more datagrams at once than `[reassembly] max_flows`."
        "Lower the peer's MTU so that ESP isn't fragmented.";
    InnerVersion 89 IN_PKT_IPVER_INVALID Input
        "The inner packet's IP version contradicts the ESP next header."
        "A faulty peer."
        "Capture the dropped packets with the capture plugin and report them to the peer's vendor.";
    NoBuffer 110 PKT_BUFFER_UNAVAILABLE Input
        "There was no free buffer for the packet."
        "The mempool is too small for the load."
        "Enlarge `[eal] mbufs`.";
    L2Malformed 200 NF_L2_MALFORMED -
        "The frame ends inside its Ethernet or VLAN header, or has more than two VLAN tags."
        "A faulty sender or driver."
        "Look at the sender's MAC with the capture plugin.";
    Ipv4Malformed 201 NF_V4_HEADER_MALFORMED -
        "The IPv4 header is cut short, or its version, header length or total length is a lie."
        "A faulty sender or an attack."
        "Look at the packets with the capture plugin.";
    Ipv4Checksum 202 NF_V4_HEADER_CHECKSUM -
        "The IPv4 header checksum is wrong."
        "Damage on the way, or a virtual port whose sender leaves checksums to hardware."
        "Switch off TX checksum offload at the sender if it is a virtual port; else look for a bad link.";
    Ipv6Malformed 203 NF_V6_HEADER_MALFORMED -
        "The IPv6 header or its extension headers are cut short or lie about their length."
        "A faulty sender or an attack."
        "Look at the packets with the capture plugin.";
    UdpMalformed 204 NF_UDP_MALFORMED -
        "The UDP header on port 4500 is cut short or lies about its length."
        "A faulty sender or an attack."
        "Look at the packets with the capture plugin.";
    EspTruncated 205 NF_ESP_TRUNCATED Input
        "The packet is too short to be ESP: it has no room for SPI and sequence number."
        "A truncated packet or an attack."
        "Look for a link with a smaller MTU that cuts packets, or use the capture plugin.";
    SpiZero 206 NF_ESP_SPI_ZERO Input
        "The SPI is 0, which is never sent on the wire (RFC 4303 2.1)."
        "A faulty sender."
        "Look at the sender with the capture plugin.";
    SpiReserved 207 NF_ESP_SPI_RESERVED Input
        "The SPI is one of 1 to 255, which IANA reserves (RFC 4303 2.1)."
        "A faulty sender."
        "Look at the sender with the capture plugin.";
    FragmentV6 208 NF_V6_PKT_FRAG_ERR Input
        "A fragment that can't be reassembled: malformed, overlapping, or there was no room (IPv6)."
        "A faulty sender, a fragment flood, or more datagrams at once than `[reassembly] max_flows`."
        "Lower the peer's MTU so that ESP isn't fragmented.";
    FragmentTimeout 209 NF_PKT_FRAG_TIMEOUT Input
        "The other fragments of the datagram did not come in time."
        "Loss on the way, or a fragment flood."
        "Lower the peer's MTU so that ESP isn't fragmented.";
    InnerMalformed 210 NF_INNER_MALFORMED Input
        "The decrypted packet's header is cut short or lies about its length."
        "A faulty peer."
        "Report it to the peer's vendor, with a capture.";
    EcnNotEct 211 NF_ECN_CE_ON_NOT_ECT Input
        "The outer header is marked congestion experienced while the inner packet is not ECN capable (RFC 6040 4.2)."
        "A router on the way marks packets that it should have dropped."
        "None here: the drop is the congestion signal.";
    TtlExpired 212 NF_TTL_EXPIRED -
        "The packet's TTL or hop limit allows no further hop."
        "A routing loop, or a traceroute."
        "Check the routes behind the tunnel.";
    NoRoute 213 NF_NO_ROUTE -
        "No route leads to the packet's destination, or there is no port on which it could leave."
        "A missing `[[route]]` or route of the host, or no `[[port]]` with the role `protected`."
        "Compare the destination with the routes: `[[route]]` in the config, `ip route` where they are mirrored.";
    NotForUs 214 NF_NO_EXCEPTION_PORT -
        "The packet isn't ESP for us, and there is no exception port to hand it to."
        "ARP, IKE, ICMP and the like on a host without `[[port]] role = \"exception\"`."
        "Add an exception port if the host's own stack shall see such packets.";
    TxFull 215 NF_TX_QUEUE_FULL -
        "The port's transmit queue took no more packets."
        "The output link is slower than the input."
        "Compare the rates of both ports; give the output port more tx descriptors or bandwidth.";
    Plugin 216 NF_PLUGIN_DROP -
        "A plugin refused the packet by its own policy."
        "A policer or filter that is bound to a gate."
        "`nf-ctl plugin list` shows what is bound.";
    LarvalTimeout 217 NF_LARVAL_SA_TIMEOUT Input
        "The packet came early, on an SPI that was reserved, and its SA did not come in time."
        "IKE gave the negotiation up after it had told the peer the SPI, or takes longer than `[sad] larval_age_ms`."
        "Look at the IKE log of that time; where IKE is merely slow, raise `[sad] larval_age_ms`.";
    LarvalFull 218 NF_LARVAL_QUEUE_FULL Input
        "The packet came early, on an SPI that was reserved, and no more could be held."
        "The peer sends at a high rate before IKE has installed the SA, or somebody floods a reserved SPI."
        "Raise `[sad] larval_spi_packets`, `larval_packets` or `larval_octets`, and `[eal] mbufs` with them.";
    NoNeighbour 220 NF_NO_NEIGHBOUR -
        "The next hop's Ethernet address isn't known (yet)."
        "The first packet to a host, while it is being resolved; or the next hop is down, or there is no `[[neighbour]]`."
        "Ping the next hop from the host; without an exception port give it a `[[neighbour]]` or the port a `next_hop_mac`.";
    MtuExceeded 221 NF_MTU_EXCEEDED -
        "The packet is longer than its output port's MTU, and may not be fragmented."
        "The sender takes a larger MTU for granted than the path has, and doesn't hear of it or doesn't believe it."
        "Compare the MTU of both ports; lower the MTU or the TCP MSS behind the tunnel.";
    ClearInput 222 NF_CLEAR_INPUT Input
        "A packet from outside, in clear, for the protected network (RFC 4301 5.2)."
        "A host outside that has no tunnel, a peer that sends around its tunnel, or an attack."
        "Look at its source with the capture plugin; what is to pass in clear needs a port that isn't `unprotected`.";
    ClearOutput 223 NF_CLEAR_OUTPUT DenyDrop
        "A packet that no plugin has protected would have left on an unprotected port (RFC 4301 5.1)."
        "No SA or policy covers the packet, or a route leads outside that should not."
        "Compare the packet's addresses with the outbound policy; check the routes.";
    CryptoQueueFull 224 NF_CRYPTO_QUEUE_FULL TailDrop
        "The crypto device has as many packets of the worker as it may have at a time."
        "The device is slower than the traffic, or hangs: the packets in flight stay the same then."
        "Spread the load over more workers or devices; `[crypto] device_depth` helps against bursts alone.";
}

impl DropReason {
    /// The number of reasons, for tables with an entry for each.
    pub const COUNT: usize = Self::ALL.len();

    /// The place of this reason in a table with [`DropReason::COUNT`] entries.
    pub const fn slot(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_ascend_and_own_ones_start_at_200() {
        let indices: Vec<u16> = DropReason::ALL.iter().map(|r| r.info().index).collect();
        assert!(indices.is_sorted_by(|a, b| a < b), "{indices:?}");
        for reason in DropReason::ALL {
            let info = reason.info();
            assert_eq!(info.index >= FIRST_OWN_INDEX, info.name.starts_with("NF_"), "{}", info.name);
        }
    }

    #[test]
    fn slots_are_dense() {
        for (slot, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.slot(), slot);
        }
    }

    #[test]
    fn the_indices_that_the_interface_names_are_there() {
        let find = |index| DropReason::ALL.iter().map(|r| r.info()).find(|i| i.index == index).map(|i| i.name);
        assert_eq!(find(4), Some("IN_US_V4_PKT_SA_NOT_FOUND_SPI"));
        assert_eq!(find(7), Some("IN_TRANS_V4_IPSEC_PKT_NOT_FOUND_SPI"));
        assert_eq!(find(12), Some("IN_US_V6_PKT_SA_NOT_FOUND_SPI"));
    }

    #[test]
    fn texts_are_sentences() {
        for reason in DropReason::ALL {
            let info = reason.info();
            for text in [info.meaning, info.cause, info.action] {
                assert!(text.ends_with('.'), "{}: {text:?}", info.name);
            }
        }
    }
}
