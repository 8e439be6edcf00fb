//! Recorded messages: samples/README.md says where they are from.

use std::collections::HashMap;

/// A message that was on the wire.
pub struct Sample {
    /// Its exchange, and `request` or `response`.
    pub name: String,
    /// The message.
    pub octets: Vec<u8>,
    /// What its SK or SKF payload holds, without padding; nothing if it has none.
    pub inside: Vec<u8>,
    /// The keys of the IKE SA it belongs to, by their names in RFC 7296 2.14.
    keys: HashMap<String, Vec<u8>>,
}

impl Sample {
    /// The key that its sender used, by the beginning of its name, such as `SK_e`.
    pub fn key(&self, name: &str) -> &[u8] {
        // The flag: set by the original initiator.
        let sender = if self.octets[19] & 0x08 != 0 { 'i' } else { 'r' };
        &self.keys[&format!("{name}{sender}")]
    }
}

/// A recording.
pub struct Recording {
    /// Its messages in order.
    pub samples: Vec<Sample>,
}

impl Recording {
    /// Reads a file of samples/.
    pub fn parse(text: &str) -> Recording {
        let mut keys: HashMap<Vec<u8>, HashMap<String, Vec<u8>>> = HashMap::new();
        let mut ike_sa = Vec::new();
        let mut samples: Vec<Sample> = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').unwrap();
            let value = if value == "-" { Vec::new() } else { hex::decode(value).unwrap() };
            match name {
                "ike-sa" => ike_sa = value,
                "inside" => samples.last_mut().unwrap().inside = value,
                key if key.starts_with("SK_") => {
                    keys.entry(ike_sa.clone()).or_default().insert(key.to_owned(), value);
                }
                _ => {
                    let keys = keys[&value[..8]].clone();
                    samples.push(Sample { name: name.to_owned(), octets: value, inside: Vec::new(), keys });
                }
            }
        }
        Recording { samples }
    }
}
