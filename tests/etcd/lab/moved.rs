//! A machine gets another address, and nodelet gets the new spec.

use pf9_hostagent::model::EtcdMember;

use super::{Machine, OF_ETCD, network, pki};

impl Machine {
    /// The machine has the address of `n` instead of its own, as DHCP may assign it.
    pub(crate) fn gets(&mut self, n: u8) {
        self.network.moves(n);
        self.ip = network::address(n);
    }

    /// The machine has only the address of `n`, and nothing follows: its etcd listens at the previous one.
    pub(crate) fn is_elsewhere(&self, n: u8) {
        self.network.moves(n);
    }

    /// The address of `n` in addition to the present ones.
    pub(crate) fn is_here_too(&self, n: u8) {
        self.network.adds(n);
    }

    /// nodelet gets the addresses of its master and all members, and certificates with them.
    pub(crate) fn told(&mut self, pki: &pki::Pki, members: &[EtcdMember]) {
        let (ip, fs) = (self.ip, self.fs.clone());
        let spec = self.node.spec_mut();
        spec.node_ip = ip;
        spec.etcd.members = members.to_vec();
        for purpose in OF_ETCD {
            pki.certify(&fs, purpose, spec);
        }
    }
}
