//! The numbers that IANA keeps for IKEv2, each registry as a type, with the names that operators know.
//!
//! Source: the registry "Internet Key Exchange Version 2 (IKEv2) Parameters". A number without a name here is carried and
//! printed all the same.

use std::fmt;

macro_rules! registry {
    (
        $(#[$doc:meta])*
        $name:ident($repr:ty), prefix $prefix:literal {
            $($constant:ident = $value:literal $(as $iana:literal)?,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(
            /// The number on the wire.
            pub $repr,
        );

        impl $name {
            $(
                #[doc = concat!(registry!(@name $prefix, $constant $(, $iana)?), ": ", stringify!($value), ".")]
                pub const $constant: $name = $name($value);
            )*

            /// The name that IANA lists, if the number has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(registry!(@name $prefix, $constant $(, $iana)?)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, "{}({})", stringify!($name), self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
    (@name $prefix:literal, $constant:ident, $iana:literal) => { $iana };
    (@name $prefix:literal, $constant:ident) => { concat!($prefix, stringify!($constant)) };
}

registry! {
    /// What an exchange is for.
    ExchangeType(u8), prefix "" {
        IKE_SA_INIT = 34,
        IKE_AUTH = 35,
        CREATE_CHILD_SA = 36,
        INFORMATIONAL = 37,
        IKE_SESSION_RESUME = 38,
        GSA_AUTH = 39,
        GSA_REGISTRATION = 40,
        GSA_REKEY = 41,
        GSA_INBAND_REKEY = 42,
        IKE_INTERMEDIATE = 43,
        IKE_FOLLOWUP_KE = 44,
    }
}

registry! {
    /// The type of a payload, by the short notation of RFC 7296 3.2.
    PayloadType(u8), prefix "" {
        NONE = 0 as "No Next Payload",
        SA = 33,
        KE = 34,
        IDI = 35 as "IDi",
        IDR = 36 as "IDr",
        CERT = 37,
        CERTREQ = 38,
        AUTH = 39,
        NONCE = 40 as "Ni, Nr",
        NOTIFY = 41 as "N",
        DELETE = 42 as "D",
        VENDOR_ID = 43 as "V",
        TSI = 44 as "TSi",
        TSR = 45 as "TSr",
        SK = 46,
        CP = 47,
        EAP = 48,
        GSPM = 49,
        IDG = 50 as "IDg",
        GSA = 51,
        KD = 52,
        SKF = 53,
        PS = 54,
    }
}

registry! {
    /// The protocol that an SPI or a proposal belongs to.
    ProtocolId(u8), prefix "" {
        NONE = 0,
        IKE = 1,
        AH = 2,
        ESP = 3,
        FC_ESP_HEADER = 4,
        FC_CT_AUTHENTICATION = 5,
        GIKE_UPDATE = 6,
    }
}

registry! {
    /// What a transform decides.
    TransformType(u8), prefix "" {
        ENCR = 1,
        PRF = 2,
        INTEG = 3,
        DH = 4 as "KE",
        ESN = 5,
        ADDKE1 = 6,
        ADDKE2 = 7,
        ADDKE3 = 8,
        ADDKE4 = 9,
        ADDKE5 = 10,
        ADDKE6 = 11,
        ADDKE7 = 12,
    }
}

registry! {
    /// Encryption algorithms (transform type 1).
    EncrId(u16), prefix "ENCR_" {
        DES_IV64 = 1,
        DES = 2,
        TRIPLE_DES = 3 as "ENCR_3DES",
        RC5 = 4,
        IDEA = 5,
        CAST = 6,
        BLOWFISH = 7,
        TRIPLE_IDEA = 8 as "ENCR_3IDEA",
        DES_IV32 = 9,
        NULL = 11,
        AES_CBC = 12,
        AES_CTR = 13,
        AES_CCM_8 = 14,
        AES_CCM_12 = 15,
        AES_CCM_16 = 16,
        AES_GCM_8 = 18,
        AES_GCM_12 = 19,
        AES_GCM_16 = 20,
        NULL_AUTH_AES_GMAC = 21,
        CAMELLIA_CBC = 23,
        CAMELLIA_CTR = 24,
        CAMELLIA_CCM_8 = 25,
        CAMELLIA_CCM_12 = 26,
        CAMELLIA_CCM_16 = 27,
        CHACHA20_POLY1305 = 28,
        AES_CCM_8_IIV = 29,
        AES_GCM_16_IIV = 30,
        CHACHA20_POLY1305_IIV = 31,
    }
}

registry! {
    /// Pseudorandom functions (transform type 2).
    PrfId(u16), prefix "PRF_" {
        HMAC_MD5 = 1,
        HMAC_SHA1 = 2,
        HMAC_TIGER = 3,
        AES128_XCBC = 4,
        HMAC_SHA2_256 = 5,
        HMAC_SHA2_384 = 6,
        HMAC_SHA2_512 = 7,
        AES128_CMAC = 8,
        HMAC_STREEBOG_512 = 9,
    }
}

registry! {
    /// Integrity algorithms (transform type 3).
    IntegId(u16), prefix "AUTH_" {
        NONE = 0 as "NONE",
        HMAC_MD5_96 = 1,
        HMAC_SHA1_96 = 2,
        DES_MAC = 3,
        KPDK_MD5 = 4,
        AES_XCBC_96 = 5,
        HMAC_MD5_128 = 6,
        HMAC_SHA1_160 = 7,
        AES_CMAC_96 = 8,
        AES_128_GMAC = 9,
        AES_192_GMAC = 10,
        AES_256_GMAC = 11,
        HMAC_SHA2_256_128 = 12,
        HMAC_SHA2_384_192 = 13,
        HMAC_SHA2_512_256 = 14,
    }
}

registry! {
    /// Key exchange methods, once called Diffie-Hellman groups (transform type 4).
    DhGroup(u16), prefix "" {
        NONE = 0,
        MODP_768 = 1 as "768-bit MODP Group",
        MODP_1024 = 2 as "1024-bit MODP Group",
        MODP_1536 = 5 as "1536-bit MODP Group",
        MODP_2048 = 14 as "2048-bit MODP Group",
        MODP_3072 = 15 as "3072-bit MODP Group",
        MODP_4096 = 16 as "4096-bit MODP Group",
        MODP_6144 = 17 as "6144-bit MODP Group",
        MODP_8192 = 18 as "8192-bit MODP Group",
        ECP_256 = 19 as "256-bit random ECP group",
        ECP_384 = 20 as "384-bit random ECP group",
        ECP_521 = 21 as "521-bit random ECP group",
        MODP_1024_160 = 22 as "1024-bit MODP Group with 160-bit Prime Order Subgroup",
        MODP_2048_224 = 23 as "2048-bit MODP Group with 224-bit Prime Order Subgroup",
        MODP_2048_256 = 24 as "2048-bit MODP Group with 256-bit Prime Order Subgroup",
        ECP_192 = 25 as "192-bit Random ECP Group",
        ECP_224 = 26 as "224-bit Random ECP Group",
        BRAINPOOL_P224R1 = 27 as "brainpoolP224r1",
        BRAINPOOL_P256R1 = 28 as "brainpoolP256r1",
        BRAINPOOL_P384R1 = 29 as "brainpoolP384r1",
        BRAINPOOL_P512R1 = 30 as "brainpoolP512r1",
        CURVE25519 = 31 as "Curve25519",
        CURVE448 = 32 as "Curve448",
        ML_KEM_512 = 35 as "ml-kem-512",
        ML_KEM_768 = 36 as "ml-kem-768",
        ML_KEM_1024 = 37 as "ml-kem-1024",
    }
}

registry! {
    /// Whether sequence numbers of ESP or AH have 64 bits (transform type 5).
    EsnId(u16), prefix "" {
        NO = 0 as "No Extended Sequence Numbers",
        YES = 1 as "Extended Sequence Numbers",
    }
}

registry! {
    /// The attributes of a transform.
    AttributeType(u16), prefix "" {
        KEY_LENGTH = 14 as "Key Length (in bits)",
    }
}

registry! {
    /// How a peer proves who it is.
    AuthMethod(u8), prefix "" {
        RSA = 1 as "RSA Digital Signature",
        SHARED_KEY = 2 as "Shared Key Message Integrity Code",
        DSS = 3 as "DSS Digital Signature",
        ECDSA_P256 = 9 as "ECDSA with SHA-256 on the P-256 curve",
        ECDSA_P384 = 10 as "ECDSA with SHA-384 on the P-384 curve",
        ECDSA_P521 = 11 as "ECDSA with SHA-512 on the P-521 curve",
        SECURE_PASSWORD = 12 as "Generic Secure Password Authentication Method",
        NULL = 13 as "NULL Authentication",
        DIGITAL_SIGNATURE = 14 as "Digital Signature",
    }
}

registry! {
    /// Hashes for signatures, as announced by SIGNATURE_HASH_ALGORITHMS (RFC 7427).
    HashAlgorithm(u16), prefix "" {
        SHA1 = 1,
        SHA2_256 = 2 as "SHA2-256",
        SHA2_384 = 3 as "SHA2-384",
        SHA2_512 = 4 as "SHA2-512",
        IDENTITY = 5 as "Identity",
    }
}

registry! {
    /// What kind of name an identity is.
    IdType(u8), prefix "ID_" {
        IPV4_ADDR = 1,
        FQDN = 2,
        RFC822_ADDR = 3,
        IPV6_ADDR = 5,
        DER_ASN1_DN = 9,
        DER_ASN1_GN = 10,
        KEY_ID = 11,
        FC_NAME = 12,
        NULL = 13,
    }
}

registry! {
    /// What a CERT payload holds, or a CERTREQ payload asks for.
    CertEncoding(u8), prefix "" {
        PKCS7 = 1 as "PKCS #7 wrapped X.509 certificate",
        PGP = 2 as "PGP Certificate",
        DNS_SIGNED_KEY = 3 as "DNS Signed Key",
        X509_SIGNATURE = 4 as "X.509 Certificate - Signature",
        KERBEROS_TOKEN = 6 as "Kerberos Token",
        CRL = 7 as "Certificate Revocation List (CRL)",
        ARL = 8 as "Authority Revocation List (ARL)",
        SPKI = 9 as "SPKI Certificate",
        X509_ATTRIBUTE = 10 as "X.509 Certificate - Attribute",
        HASH_AND_URL = 12 as "Hash and URL of X.509 certificate",
        HASH_AND_URL_BUNDLE = 13 as "Hash and URL of X.509 bundle",
        OCSP = 14 as "OCSP Content",
        RAW_PUBLIC_KEY = 15 as "Raw Public Key",
    }
}

registry! {
    /// What a traffic selector describes.
    TsType(u8), prefix "TS_" {
        IPV4_ADDR_RANGE = 7,
        IPV6_ADDR_RANGE = 8,
        FC_ADDR_RANGE = 9,
        SECLABEL = 10,
    }
}

registry! {
    /// The direction of a CP payload.
    CfgType(u8), prefix "CFG_" {
        REQUEST = 1,
        REPLY = 2,
        SET = 3,
        ACK = 4,
    }
}

registry! {
    /// What is configured by a CP payload.
    CfgAttributeType(u16), prefix "" {
        INTERNAL_IP4_ADDRESS = 1,
        INTERNAL_IP4_NETMASK = 2,
        INTERNAL_IP4_DNS = 3,
        INTERNAL_IP4_NBNS = 4,
        INTERNAL_IP4_DHCP = 6,
        APPLICATION_VERSION = 7,
        INTERNAL_IP6_ADDRESS = 8,
        INTERNAL_IP6_DNS = 10,
        INTERNAL_IP6_DHCP = 12,
        INTERNAL_IP4_SUBNET = 13,
        SUPPORTED_ATTRIBUTES = 14,
        INTERNAL_IP6_SUBNET = 15,
        MIP6_HOME_PREFIX = 16,
        INTERNAL_IP6_LINK = 17,
        INTERNAL_IP6_PREFIX = 18,
        HOME_AGENT_ADDRESS = 19,
        P_CSCF_IP4_ADDRESS = 20,
        P_CSCF_IP6_ADDRESS = 21,
        FTT_KAT = 22,
        EXTERNAL_SOURCE_IP4_NAT_INFO = 23,
        TIMEOUT_PERIOD_FOR_LIVENESS_CHECK = 24,
        INTERNAL_DNS_DOMAIN = 25,
        INTERNAL_DNSSEC_TA = 26,
    }
}

registry! {
    /// The kind of an EAP packet (RFC 3748 4).
    EapCode(u8), prefix "" {
        REQUEST = 1 as "Request",
        RESPONSE = 2 as "Response",
        SUCCESS = 3 as "Success",
        FAILURE = 4 as "Failure",
    }
}

registry! {
    /// What a notify says. Below 16384 errors, from there on status.
    NotifyType(u16), prefix "" {
        UNSUPPORTED_CRITICAL_PAYLOAD = 1,
        INVALID_IKE_SPI = 4,
        INVALID_MAJOR_VERSION = 5,
        INVALID_SYNTAX = 7,
        INVALID_MESSAGE_ID = 9,
        INVALID_SPI = 11,
        NO_PROPOSAL_CHOSEN = 14,
        INVALID_KE_PAYLOAD = 17,
        AUTHENTICATION_FAILED = 24,
        SINGLE_PAIR_REQUIRED = 34,
        NO_ADDITIONAL_SAS = 35,
        INTERNAL_ADDRESS_FAILURE = 36,
        FAILED_CP_REQUIRED = 37,
        TS_UNACCEPTABLE = 38,
        INVALID_SELECTORS = 39,
        UNACCEPTABLE_ADDRESSES = 40,
        UNEXPECTED_NAT_DETECTED = 41,
        USE_ASSIGNED_HOA = 42 as "USE_ASSIGNED_HoA",
        TEMPORARY_FAILURE = 43,
        CHILD_SA_NOT_FOUND = 44,
        INVALID_GROUP_ID = 45,
        AUTHORIZATION_FAILED = 46,
        STATE_NOT_FOUND = 47,
        INITIAL_CONTACT = 16384,
        SET_WINDOW_SIZE = 16385,
        ADDITIONAL_TS_POSSIBLE = 16386,
        IPCOMP_SUPPORTED = 16387,
        NAT_DETECTION_SOURCE_IP = 16388,
        NAT_DETECTION_DESTINATION_IP = 16389,
        COOKIE = 16390,
        USE_TRANSPORT_MODE = 16391,
        HTTP_CERT_LOOKUP_SUPPORTED = 16392,
        REKEY_SA = 16393,
        ESP_TFC_PADDING_NOT_SUPPORTED = 16394,
        NON_FIRST_FRAGMENTS_ALSO = 16395,
        MOBIKE_SUPPORTED = 16396,
        ADDITIONAL_IP4_ADDRESS = 16397,
        ADDITIONAL_IP6_ADDRESS = 16398,
        NO_ADDITIONAL_ADDRESSES = 16399,
        UPDATE_SA_ADDRESSES = 16400,
        COOKIE2 = 16401,
        NO_NATS_ALLOWED = 16402,
        AUTH_LIFETIME = 16403,
        MULTIPLE_AUTH_SUPPORTED = 16404,
        ANOTHER_AUTH_FOLLOWS = 16405,
        REDIRECT_SUPPORTED = 16406,
        REDIRECT = 16407,
        REDIRECTED_FROM = 16408,
        TICKET_LT_OPAQUE = 16409,
        TICKET_REQUEST = 16410,
        TICKET_ACK = 16411,
        TICKET_NACK = 16412,
        TICKET_OPAQUE = 16413,
        LINK_ID = 16414,
        USE_WESP_MODE = 16415,
        ROHC_SUPPORTED = 16416,
        EAP_ONLY_AUTHENTICATION = 16417,
        CHILDLESS_IKEV2_SUPPORTED = 16418,
        QUICK_CRASH_DETECTION = 16419,
        IKEV2_MESSAGE_ID_SYNC_SUPPORTED = 16420,
        IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED = 16421,
        IKEV2_MESSAGE_ID_SYNC = 16422,
        IPSEC_REPLAY_COUNTER_SYNC = 16423,
        SECURE_PASSWORD_METHODS = 16424,
        PSK_PERSIST = 16425,
        PSK_CONFIRM = 16426,
        ERX_SUPPORTED = 16427,
        IFOM_CAPABILITY = 16428,
        GROUP_SENDER = 16429,
        IKEV2_FRAGMENTATION_SUPPORTED = 16430,
        SIGNATURE_HASH_ALGORITHMS = 16431,
        CLONE_IKE_SA_SUPPORTED = 16432,
        CLONE_IKE_SA = 16433,
        PUZZLE = 16434,
        USE_PPK = 16435,
        PPK_IDENTITY = 16436,
        NO_PPK_AUTH = 16437,
        INTERMEDIATE_EXCHANGE_SUPPORTED = 16438,
        IP4_ALLOWED = 16439,
        IP6_ALLOWED = 16440,
        ADDITIONAL_KEY_EXCHANGE = 16441,
        USE_AGGFRAG = 16442,
        SUPPORTED_AUTH_METHODS = 16443,
        SA_RESOURCE_INFO = 16444,
    }
}

impl NotifyType {
    /// Whether it reports an error, and so ends what was asked for (RFC 7296 3.10.1). Unknown errors count as well.
    pub const fn is_error(self) -> bool {
        self.0 < 16384
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ianas_and_unknown_numbers_are_shown() {
        assert_eq!(EncrId::AES_GCM_16.to_string(), "ENCR_AES_GCM_16");
        assert_eq!(IntegId::HMAC_SHA2_256_128.to_string(), "AUTH_HMAC_SHA2_256_128");
        assert_eq!(PayloadType::TSI.to_string(), "TSi");
        assert_eq!(NotifyType(16419).to_string(), "QUICK_CRASH_DETECTION");
        assert_eq!(NotifyType(40970).to_string(), "NotifyType(40970)");
        assert_eq!(format!("{:>5}|", PayloadType::KE), "   KE|");
    }

    #[test]
    fn errors_end_at_16383() {
        assert!(NotifyType(16383).is_error());
        assert!(!NotifyType::INITIAL_CONTACT.is_error());
    }
}
