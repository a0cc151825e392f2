//! What a renewed certificate needs before it is used: nothing, time, or a restart.
//!
//! One table. A component that reloads its files by itself is left alone; the rest has the certificate among
//! the inputs it is restarted for. No workload pod is ever restarted.
//!
//! | file of | read | source (kubernetes, etcd) |
//! |---|---|---|
//! | API server, serving | within a minute | `apiserver/pkg/server/dynamiccertificates/dynamic_serving_content.go` |
//! | API server, `--client-ca-file`, `--requestheader-client-ca-file` | within a minute | `…/dynamic_cafile_content.go` |
//! | API server, as kubelets' client | within five minutes | `client-go/transport/cert_rotation.go` |
//! | API server, as the aggregator | within a minute | `kube-aggregator/pkg/apiserver/apiserver.go` (`aggregator-proxy-cert`) |
//! | API server, as etcd's client | every connection | `client/pkg/transport/listener.go` (`GetClientCertificate`) |
//! | API server, `--etcd-cafile`, `--kubelet-certificate-authority` | at start | `listener.go` (`NewCertPool`), `client-go/transport/transport.go` |
//! | etcd, server and peer | every connection | `client/pkg/transport/listener.go` (`GetCertificate`) |
//! | etcd, authorities | at start | `listener.go` (`NewCertPool`) |
//! | kubelet, kube-proxy, controller manager, scheduler, as API client | within five minutes | `client-go/transport/cert_rotation.go` |
//! | the same, the API's authority (kubeconfig) | at start | `client-go/transport/transport.go`; 1.36 and newer read it again (`ClientsAllowCARotation`) and are restarted anyway |
//! | controller manager, `--root-ca-file` | at start | `kube-controller-manager/app/certificates.go` (`readCA`) |
//! | kubelet, serving | within a minute | `kubelet/certificate/kubelet.go` (`ReloadKubeletServerCertificateFile`) |
//! | kubelet, `clientCAFile` | within a minute | `…/dynamic_cafile_content.go` |
//! | controller manager, scheduler, front-proxy authority | at start | mounted as one file: the pod keeps seeing the file that was replaced |
//!
//! The lines about authorities are what the inputs of `control_plane`, `etcd`, `kubelet` and
//! `kube_proxy` hold; those about certificates are [`of`].

use jiff::SignedDuration;

use crate::model::CertPurpose;

use super::render::Inputs;
use super::{PhaseContext, renewal};

/// When a renewed certificate is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reload {
    /// With the next connection; those that are open do not mind.
    EveryConnection,
    /// By itself, this long after at most.
    Within(SignedDuration),
}

/// `FileRefreshDuration` of dynamically read certificates.
const SERVING: Reload = Reload::Within(SignedDuration::from_mins(1));
/// `CertCallbackRefreshDuration` of client-go: until then an open connection continues with the old
/// certificate, and the API server looks at its end with every request.
const CLIENT: Reload = Reload::Within(SignedDuration::from_mins(5));
/// The certificate reaches its file this much later than it was asked for, on a bad day.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_mins(1);

/// When the component with this certificate picks up a new one.
pub(super) fn of(purpose: CertPurpose) -> Reload {
    match purpose {
        CertPurpose::ApiServer | CertPurpose::FrontProxy | CertPurpose::KubeletServer => SERVING,
        CertPurpose::ApiServerKubelet
        | CertPurpose::ControllerManager
        | CertPurpose::Scheduler
        | CertPurpose::KubeletClient
        | CertPurpose::KubeProxy => CLIENT,
        CertPurpose::ApiServerEtcd
        | CertPurpose::EtcdServer
        | CertPurpose::EtcdPeer
        | CertPurpose::EtcdClient
        // nodelet's own clients are made again with a new certificate; people start theirs.
        | CertPurpose::Admin
        | CertPurpose::Nodelet => Reload::EveryConnection,
    }
}

/// Adds those of these certificates that their reader must be restarted for. Where a life is so
/// short that the old one ends before the new one is read, that is all of them.
pub(super) fn inputs(mut inputs: Inputs, ctx: &PhaseContext, purposes: &[CertPurpose]) -> Inputs {
    for purpose in purposes {
        let seen = ctx
            .material
            .get(purpose)
            .and_then(|m| m.certificate.as_ref());
        let Some(seen) = seen else { continue };
        let restart = match of(*purpose) {
            Reload::EveryConnection => false,
            Reload::Within(time) => renewal::left_at_renewal(seen) < time + ON_ITS_WAY,
        };
        if restart {
            inputs = inputs.add_digest(purpose.dir(), Some(seen.digest));
        }
    }
    inputs
}
