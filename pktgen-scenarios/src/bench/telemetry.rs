//! DPDK's telemetry socket, as far as it is needed: the packets that a port has counted.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

/// Octets of the longest answer.
const LONGEST: usize = 16 << 10;

/// A connection to a DPDK program.
pub(super) struct Telemetry(Socket);

impl Telemetry {
    pub(super) fn connect(path: &Path) -> io::Result<Telemetry> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut telemetry = Telemetry(socket);
        // It introduces itself.
        telemetry.answer()?;
        Ok(telemetry)
    }

    /// Packets that a port has received and sent.
    pub(super) fn packets(&mut self, port: usize) -> io::Result<(u64, u64)> {
        self.0.write_all(format!("/ethdev/stats,{port}").as_bytes())?;
        let answer = self.answer()?;
        let stats = &answer["/ethdev/stats"];
        match (stats["ipackets"].as_u64(), stats["opackets"].as_u64()) {
            (Some(received), Some(sent)) => Ok((received, sent)),
            _ => Err(io::Error::other(format!("port {port} has no counters"))),
        }
    }

    fn answer(&mut self) -> io::Result<Value> {
        let mut answer = vec![0; LONGEST];
        let len = self.0.read(&mut answer)?;
        serde_json::from_slice(answer.get(..len).unwrap_or_default()).map_err(io::Error::other)
    }
}
