//! What `nf-ctl` and `nf-core` say to each other: a line of JSON each way, over a Unix stream socket.
//!
//! ```text
//! > {"op":"sa-show","spi":305419896}
//! < {"error":"there is no SA with SPI 0x12345678(305419896); `nf-ctl sa list` shows those that there are"}
//! > {"op":"counters"}
//! < {"ok":{"rx":{"packets":17,"octets":2210},...}}
//! ```
//!
//! `subscribe` turns a connection into a stream of events, a line each, which ends with the connection:
//!
//! ```text
//! > {"op":"subscribe","kinds":["invalid-spi"]}
//! < {"ok":{"kinds":["invalid-spi"],"now_ns":5000000000}}
//! < {"event":{"kind":"invalid-spi","spi":3076621886,"src":"10.1.1.1","dst":"10.10.1.2","udp_ports":null,...}}
//! ```
//!
//! Each request gets exactly one response, in order, and a connection serves any number of them. Requests are strict, an
//! unknown field is refused, so that a misspelt option isn't lost. Responses are lenient: a client skips fields that it
//! doesn't know, so fields may be added without a new [`VERSION`]. Keys go in and never come out.

mod event;
mod report;
mod request;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use event::{EventKind, EventLine, EventReport, InvalidSpiEvent, SaId};
pub use report::{
    BindingReport, Endpoint, InstanceReport, PluginKindReport, PluginReport, PortReport, Reserved, SaReport, Status,
    Subscribed,
};
pub use request::{Request, SaName, without_values};

/// The version of the protocol. It grows with each change that an older peer would misread. It stands in [`Status`],
/// which is what a client asks for first.
pub const VERSION: u32 = 1;

/// The longest request, in octets, its newline included. A longer one is answered by an error, and the connection ends.
pub const MAX_LINE: usize = 1 << 20;

/// The answer to a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// Done; what was asked for, or null.
    Ok(Value),
    /// Not done; one sentence with the remedy.
    Error(String),
}

impl Response {
    /// An answer with content.
    pub fn ok(content: impl Serialize) -> Response {
        match serde_json::to_value(content) {
            Ok(content) => Response::Ok(content),
            Err(error) => Response::Error(format!("the answer can't be written as JSON: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_lines_of_this_shape() {
        for (response, wanted) in [
            (Response::ok(()), r#"{"ok":null}"#),
            (Response::ok([1, 2]), r#"{"ok":[1,2]}"#),
            (Response::Error("no".to_owned()), r#"{"error":"no"}"#),
        ] {
            let line = serde_json::to_string(&response).unwrap();
            assert_eq!(line, wanted);
            assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), response);
        }
    }
}
