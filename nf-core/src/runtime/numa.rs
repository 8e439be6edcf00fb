//! Memory near the devices that use it, and cores that aren't.

use dpdk_rs::{Eal, Mempool, SocketId};

use super::eal;

/// Pools of frame buffers, one for each NUMA node that has ports.
pub(super) struct FramePools {
    eal: Eal,
    mbufs: u32,
    pools: Vec<(SocketId, Mempool)>,
}

impl FramePools {
    /// With that many buffers in each pool.
    pub(super) fn new(eal: Eal, mbufs: u32) -> FramePools {
        FramePools { eal, mbufs, pools: Vec::new() }
    }

    /// The pool near a node, made if there is none yet; for a device without a node the first one there is.
    pub(super) fn near(&mut self, node: SocketId) -> Result<Mempool, dpdk_rs::Error> {
        let known = |(of, _): &&(SocketId, Mempool)| *of == node || node == SocketId::ANY;
        if let Some((_, pool)) = self.pools.iter().find(known) {
            return Ok(pool.clone());
        }
        let name = match self.pools.len() {
            0 => "frames".to_owned(),
            number => format!("frames-{number}"),
        };
        let create = |at| Mempool::create(self.eal, &name, self.mbufs, 256, eal::DATA_ROOM, at);
        let pool = match create(node) {
            Err(error) if node != SocketId::ANY => {
                tracing::warn!(
                    node = node.id(), %error,
                    "there is no memory for packets on a port's NUMA node: it comes from another one, which is slower; \
                     reserve hugepages on each node"
                );
                create(SocketId::ANY)?
            }
            created => created?,
        };
        self.pools.push((node, pool.clone()));
        Ok(pool)
    }

    /// The pool nearest to a node, of those that there are.
    pub(super) fn nearest(&self, node: SocketId) -> Option<Mempool> {
        let near = self.pools.iter().find(|(of, _)| *of == node);
        near.or(self.pools.first()).map(|(_, pool)| pool.clone())
    }
}

/// The CPUs among `workers`, each with its node, for which a device's memory is remote.
pub(super) fn remote(device: SocketId, workers: &[(u16, SocketId)]) -> Vec<u16> {
    let is_remote = |node: &SocketId| device != SocketId::ANY && *node != SocketId::ANY && *node != device;
    workers.iter().filter(|(_, node)| is_remote(node)).map(|(cpu, _)| *cpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_on_another_node_are_remote() {
        let workers = [(2, SocketId::new(0)), (3, SocketId::new(1)), (4, SocketId::ANY)];
        assert_eq!(remote(SocketId::new(0), &workers), [3]);
        assert_eq!(remote(SocketId::new(1), &workers), [2]);
        assert!(remote(SocketId::ANY, &workers).is_empty());
    }
}
