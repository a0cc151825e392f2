//! [`FaultCode`]: every failure this software can speak of, as one closed list.
//!
//! A row is a variant, the word that programs read, and its [`FaultKind`]: what the failure means to
//! the caller. Exit codes and retries follow from the kind, so a new code cannot be forgotten
//! anywhere: it does not compile without one. Nor do tests without its meaning, how it comes about and what to do, which
//! is a row in `remedies`: `docs/troubleshooting.md`. The code of a check is in the row of its remedy, `remedies/checks`.

#[macro_use]
pub(crate) mod remedies;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The kind of a failure. Decides the exit code, and whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// It did not work; the words say why.
    Failed,
    /// The command line is wrong.
    Usage,
    /// A document, token or answer is malformed.
    BadData,
    /// The plane, the proxy in between, or one of our daemons cannot be reached.
    Unavailable,
    /// This machine is not supported.
    Unsupported,
    /// No space left.
    DiskFull,
    /// A check of the machine failed.
    NotReady,
    /// The other side is not who it should be.
    Untrusted,
    /// Not allowed.
    Refused,
    /// The configuration is wrong.
    Config,
    /// A signal or a person asked for the end.
    Interrupted,
}

macro_rules! codes {
    (
        [ $( $kind:ident { $( $id:ident = $word:literal, )* } )* ]
        $( $check:ident = $of_check:literal: $( $remedy:literal ),*; )*
    ) => {
        /// A stable word for programs; see the module.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultCode {
            $($( #[doc = concat!("`", $word, "`")] $id, )*)*
            $( #[doc = concat!("`", $of_check, "`")] $check, )*
            /// A word of a newer program; its fault is shown by its sentences.
            Newer,
        }

        impl FaultCode {
            /// Every row.
            pub const ALL: &'static [Self] = &[ $($( Self::$id, )*)* $( Self::$check, )* ];

            /// The word, kebab-case.
            pub const fn word(self) -> &'static str {
                match self {
                    $($( Self::$id => $word, )*)*
                    $( Self::$check => $of_check, )*
                    Self::Newer => "newer",
                }
            }

            /// Its kind.
            pub fn kind(self) -> FaultKind {
                match self {
                    $($( Self::$id => FaultKind::$kind, )*)*
                    $( Self::$check => FaultKind::NotReady, )*
                    Self::Newer => FaultKind::Failed,
                }
            }

            /// The code of a word; [`Self::Newer`] where this program knows none.
            pub fn of(word: &str) -> Self {
                match word {
                    $($( $word => Self::$id, )*)*
                    $( $of_check => Self::$check, )*
                    _ => Self::Newer,
                }
            }
        }
    };
}

with_checks! { codes {
    Failed {
        Addon = "addon",
        AddonInUse = "addon-in-use",
        AddonMissing = "addon-missing",
        AddressGone = "address-gone",
        AddressTaken = "address-taken",
        AgentDatabase = "agent-database",
        AgentDown = "agent-down",
        AgentFetch = "agent-fetch",
        AgentNotProven = "agent-not-proven",
        AgentOvertaken = "agent-overtaken",
        AgentPackage = "agent-package",
        AgentPackageRefused = "agent-package-refused",
        AgentTooFar = "agent-too-far",
        AgentUpgradeInvalid = "agent-upgrade-invalid",
        AgentVersionTaken = "agent-version-taken",
        AgentVersionUnknown = "agent-version-unknown",
        AlertInvalid = "alert-invalid",
        ApiAddressForeign = "api-address-foreign",
        ApiAddressOffLink = "api-address-off-link",
        ApiAddressUnheld = "api-address-unheld",
        ApiNotReady = "api-not-ready",
        StaticPodNotCurrent = "static-pod-not-current",
        AttachEmpty = "attach-empty",
        BackupBroken = "backup-broken",
        BackupFailed = "backup-failed",
        BatchTooLarge = "batch-too-large",
        BodyBroken = "body-broken",
        BodyMalformed = "body-malformed",
        BodySlow = "body-slow",
        BodyTooLarge = "body-too-large",
        Busy = "busy",
        CaMissing = "ca-missing",
        CertificateEarly = "certificate-early",
        CertificateExpired = "certificate-expired",
        CertificateForeign = "certificate-foreign",
        CertificateMissing = "certificate-missing",
        CertificateNotRenewed = "certificate-not-renewed",
        CertificateRefused = "certificate-refused",
        CertificateRevoked = "certificate-revoked",
        CertificateUnproven = "certificate-unproven",
        CgroupV1Ends = "cgroup-v1-ends",
        CgroupV1NoSwap = "cgroup-v1-no-swap",
        ClockOff = "clock-off",
        ClusterAway = "cluster-away",
        ClusterBroken = "cluster-broken",
        ClusterChanged = "cluster-changed",
        ClusterExists = "cluster-exists",
        ClusterForeign = "cluster-foreign",
        ClusterFull = "cluster-full",
        ClusterIdInvalid = "cluster-id-invalid",
        ClusterInvalid = "cluster-invalid",
        ClusterUnknown = "cluster-unknown",
        ClustersFull = "clusters-full",
        CommandRefused = "command-refused",
        ContainersLeft = "containers-left",
        ConfigRefused = "config-refused",
        ConntrackFull = "conntrack-full",
        CsiElsewhere = "csi-elsewhere",
        CsrRefused = "csr-refused",
        Deadline = "deadline",
        DecommissionUnfinished = "decommission-unfinished",
        DetachEmpty = "detach-empty",
        DescriptorsFull = "descriptors-full",
        DigestInvalid = "digest-invalid",
        Directories = "directories",
        DiskFailed = "disk-failed",
        DiskNearlyFull = "disk-nearly-full",
        Drain = "drain",
        EtcdArchiveClock = "etcd-archive-clock",
        EtcdArchiveDamaged = "etcd-archive-damaged",
        EtcdArchiveFailed = "etcd-archive-failed",
        EtcdArchiveMissing = "etcd-archive-missing",
        EtcdArchiveNoBucket = "etcd-archive-no-bucket",
        EtcdArchiveNotMounted = "etcd-archive-not-mounted",
        EtcdArchiveOtherRegion = "etcd-archive-other-region",
        EtcdBackupStale = "etcd-backup-stale",
        EtcdCertificatesFull = "etcd-certificates-full",
        EtcdData = "etcd-data",
        EtcdElsewhere = "etcd-elsewhere",
        EtcdDrill = "etcd-drill",
        EtcdCorrupt = "etcd-corrupt",
        EtcdDataUnreadable = "etcd-data-unreadable",
        EtcdDiskSlow = "etcd-disk-slow",
        EtcdMemberLeft = "etcd-member-left",
        EtcdMemberStays = "etcd-member-stays",
        EtcdNoSpace = "etcd-no-space",
        EtcdNearlyFull = "etcd-nearly-full",
        EtcdNoVote = "etcd-no-vote",
        EtcdNotHealthy = "etcd-not-healthy",
        EtcdNotJoined = "etcd-not-joined",
        EtcdQuorum = "etcd-quorum",
        EtcdRestore = "etcd-restore",
        EtcdRestoreForeign = "etcd-restore-foreign",
        EtcdRestoreUnfit = "etcd-restore-unfit",
        EtcdNotPrepared = "etcd-not-prepared",
        EtcdNotTended = "etcd-not-tended",
        EtcdStepUnfit = "etcd-step-unfit",
        EtcdTurn = "etcd-turn",
        EventInvalid = "event-invalid",
        EventsInMemory = "events-in-memory",
        ExtensionBad = "extension-bad",
        ExtensionCheck = "extension-check",
        Facts = "facts",
        FactsInvalid = "facts-invalid",
        File = "file",
        Files = "files",
        HandshakeInvalid = "handshake-invalid",
        HoldInvalid = "hold-invalid",
        HostAttached = "host-attached",
        HostAway = "host-away",
        HostConnected = "host-connected",
        HostEnrolled = "host-enrolled",
        HostIdInvalid = "host-id-invalid",
        HostMismatch = "host-mismatch",
        HostNotAttached = "host-not-attached",
        HostSilent = "host-silent",
        HostUnknown = "host-unknown",
        HttpError = "http-error",
        IdentityCopied = "identity-copied",
        IdentityDamaged = "identity-damaged",
        IdentityIncomplete = "identity-incomplete",
        IdentityIo = "identity-io",
        IdentityKey = "identity-key",
        Image = "image",
        Internal = "internal",
        KernelModule = "kernel-module",
        KernelParameter = "kernel-parameter",
        Key = "key",
        KeyInvalid = "key-invalid",
        KeyRefused = "key-refused",
        KeyReused = "key-reused",
        KeysHostsWait = "keys-hosts-wait",
        KeysTurn = "keys-turn",
        KubeProxyNotHealthy = "kube-proxy-not-healthy",
        KubeletNotHealthy = "kubelet-not-healthy",
        LastMaster = "last-master",
        MasterMovesLater = "master-moves-later",
        MasterNotGone = "master-not-gone",
        Ledger = "ledger",
        LedgerLost = "ledger-lost",
        LocalOrderLost = "local-order-lost",
        LocalSocket = "local-socket",
        Log = "log",
        LoginRefused = "login-refused",
        MachineInvalid = "machine-invalid",
        MachineUnknown = "machine-unknown",
        Maintenance = "maintenance",
        MaintenanceInvalid = "maintenance-invalid",
        MemoryLow = "memory-low",
        RuntimeProxy = "runtime-proxy",
        MethodUnsupported = "method-unsupported",
        NetworkLeft = "network-left",
        NoAddress = "no-address",
        NoDefaultRoute = "no-default-route",
        NoMaster = "no-master",
        NoSuchMethod = "no-such-method",
        NoSuchPath = "no-such-path",
        NodeNameInvalid = "node-name-invalid",
        NodeNameTaken = "node-name-taken",
        NodeNotReady = "node-not-ready",
        NodeRenamed = "node-renamed",
        NotEnrolled = "not-enrolled",
        NotFound = "not-found",
        NotInstalled = "not-installed",
        NotPrepared = "not-prepared",
        Object = "object",
        OperationExpired = "operation-expired",
        OperationForeign = "operation-foreign",
        OperationNotAllowed = "operation-not-allowed",
        OperationReplayed = "operation-replayed",
        OperationFailed = "operation-failed",
        OperationInvalid = "operation-invalid",
        Order = "order",
        OrderEarly = "order-early",
        OrderEmpty = "order-empty",
        OrderForeign = "order-foreign",
        OrderKeyUnusable = "order-key-unusable",
        OrderKeyInvalid = "order-key-invalid",
        OrderKeyPinned = "order-key-pinned",
        OrderMalformed = "order-malformed",
        NetworksMeet = "networks-meet",
        NoDns = "no-dns",
        PathIsLink = "path-is-link",
        OrderNewer = "order-newer",
        OrderOlder = "order-older",
        OrderReplayed = "order-replayed",
        OrderUnsigned = "order-unsigned",
        OtherPlane = "other-plane",
        OutputFailed = "output-failed",
        PackageMissing = "package-missing",
        PathInvalid = "path-invalid",
        PlaneFailed = "plane-failed",
        PlaneStart = "plane-start",
        PlaneUrl = "plane-url",
        PodsCidrFull = "pods-cidr-full",
        PodNetworkRules = "pod-network-rules",
        PodsNotForwarded = "pods-not-forwarded",
        PoliciesNotKept = "policies-not-kept",
        PolicyRulesLeft = "policy-rules-left",
        PoolElsewhere = "pool-elsewhere",
        PortTaken = "port-taken",
        PortsGivenAway = "ports-given-away",
        ProcessesFull = "processes-full",
        ProgramNotRunnable = "program-not-runnable",
        ProjectUnknown = "project-unknown",
        ProofInvalid = "proof-invalid",
        ProxyRulesLeft = "proxy-rules-left",
        ProxyRulesLost = "proxy-rules-lost",
        PurposeRefused = "purpose-refused",
        QueryInvalid = "query-invalid",
        RangeInvalid = "range-invalid",
        RecoverChanged = "recover-changed",
        Removal = "removal",
        RoleKept = "role-kept",
        RoleStays = "role-stays",
        RoleUnknown = "role-unknown",
        RollBlocked = "roll-blocked",
        RollNone = "roll-none",
        RollNotNow = "roll-not-now",
        RollStopped = "roll-stopped",
        RollUnderWay = "roll-under-way",
        RotationNone = "rotation-none",
        RotationTooLate = "rotation-too-late",
        RotationUnderWay = "rotation-under-way",
        Runtime = "runtime",
        RuntimeNotAsMeant = "runtime-not-as-meant",
        RuntimeNotReady = "runtime-not-ready",
        SessionRemovalOnly = "session-removal-only",
        SessionRenewalOnly = "session-renewal-only",
        SigningKey = "signing-key",
        Socket = "socket",
        SourceUnknown = "source-unknown",
        SpecConflict = "spec-conflict",
        SpecLost = "spec-lost",
        SpecOlder = "spec-older",
        SpecOnItsWay = "spec-on-its-way",
        Stack = "stack",
        StackArchiveWrong = "stack-archive-wrong",
        StackDamaged = "stack-damaged",
        StackDrifted = "stack-drifted",
        StackFetch = "stack-fetch",
        StackIo = "stack-io",
        StackNotStaged = "stack-not-staged",
        StackOtherArch = "stack-other-arch",
        StackOtherManifest = "stack-other-manifest",
        StackProgram = "stack-program",
        StackUnfit = "stack-unfit",
        StackUnknown = "stack-unknown",
        StackUnreadable = "stack-unreadable",
        StackUntried = "stack-untried",
        StackUnwritable = "stack-unwritable",
        StackVersionTaken = "stack-version-taken",
        State = "state",
        StateBroken = "state-broken",
        StateIo = "state-io",
        StateNotUnderstood = "state-not-understood",
        StateUnreadable = "state-unreadable",
        SwapOn = "swap-on",
        SystemdSilent = "systemd-silent",
        TooMany = "too-many",
        TooOften = "too-often",
        TrustInvalid = "trust-invalid",
        TrustOlder = "trust-older",
        TtlInvalid = "ttl-invalid",
        TunnelOnly = "tunnel-only",
        Uncordon = "uncordon",
        Unit = "unit",
        UnitRemoval = "unit-removal",
        Units = "units",
        Unstable = "unstable",
        OsUnknown = "os-unknown",
        OsUpdateFailed = "os-update-failed",
        UpgradeFailed = "upgrade-failed",
        UpgradeImpossible = "upgrade-impossible",
        UpgradeNotDrained = "upgrade-not-drained",
        UpgradeWithdrawn = "upgrade-withdrawn",
        Waiting = "waiting",
        ZonesUneven = "zones-uneven",
    }
    Usage {
        Usage = "usage",
    }
    BadData {
        DocumentMalformed = "document-malformed",
        DocumentNewer = "document-newer",
        LocalMalformed = "local-malformed",
        PlaneGarbage = "plane-garbage",
        ProxyGarbage = "proxy-garbage",
        SchemaUnsupported = "schema-unsupported",
        SpecInvalid = "spec-invalid",
        StackManifestInvalid = "stack-manifest-invalid",
        TokenMalformed = "token-malformed",
    }
    Unavailable {
        EtcdArchiveAway = "etcd-archive-away",
        LocalTimeout = "local-timeout",
        LocalUnreachable = "local-unreachable",
        PlaneAway = "plane-away",
        PlaneBusy = "plane-busy",
        PlaneRefused = "plane-refused",
        PlaneSlow = "plane-slow",
        PlaneTimeout = "plane-timeout",
        PlaneUnreachable = "plane-unreachable",
        PlaneUnresolvable = "plane-unresolvable",
        ProxyCannotReach = "proxy-cannot-reach",
        ProxyClosed = "proxy-closed",
        ProxyRefused = "proxy-refused",
        ProxyTimeout = "proxy-timeout",
        ProxyUnresolvable = "proxy-unresolvable",
        TunnelDown = "tunnel-down",
    }
    Unsupported {
        NoTerminal = "no-terminal",
        UnsupportedArch = "unsupported-arch",
        UnsupportedOs = "unsupported-os",
    }
    DiskFull {
        DiskFull = "disk-full",
        EtcdArchiveFull = "etcd-archive-full",
    }
    Untrusted {
        BackupUntrusted = "backup-untrusted",
        DocumentUntrusted = "document-untrusted",
        EtcdArchiveForeignCertificate = "etcd-archive-foreign-certificate",
        PlaneForeignCertificate = "plane-foreign-certificate",
        TrustDamaged = "trust-damaged",
    }
    Refused {
        EtcdArchiveDenied = "etcd-archive-denied",
        NotAllowed = "not-allowed",
        NotRoot = "not-root",
        PlaneForbidden = "plane-forbidden",
        ProxyCredentialsKind = "proxy-credentials-kind",
        ProxyCredentialsRejected = "proxy-credentials-rejected",
        ProxyCredentialsWanted = "proxy-credentials-wanted",
        ProxyDenies = "proxy-denies",
        TokenExpired = "token-expired",
        TokenScope = "token-scope",
        TokenUnknown = "token-unknown",
        TokenUsed = "token-used",
        Unauthenticated = "unauthenticated",
    }
    Config {
        ConfigInvalid = "config-invalid",
        EtcdArchiveCredentials = "etcd-archive-credentials",
        EtcdArchiveInvalid = "etcd-archive-invalid",
        ProxyCredentialsUnreadable = "proxy-credentials-unreadable",
        ProxyCredentialsUnsafe = "proxy-credentials-unsafe",
    }
    Interrupted {
        Interrupted = "interrupted",
    }
} }

impl FaultCode {
    /// A refusal that ends when the plane raises the generation: what `pf9-plane recover` does.
    pub fn wants_greater_generation(self) -> bool {
        matches!(self, Self::SpecOlder | Self::SpecConflict)
    }

    /// A warning about the end of a certificate; a reader with more detail shows its own instead.
    pub fn is_expiry(self) -> bool {
        matches!(self, Self::CertificateExpired | Self::CertificateNotRenewed)
    }

    /// Nothing on the straight way to the plane answers: a proxy may be what is missing.
    pub fn is_no_way_out(self) -> bool {
        matches!(
            self,
            Self::PlaneUnresolvable | Self::PlaneRefused | Self::PlaneTimeout
        )
    }
}

impl std::fmt::Display for FaultCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for FaultCode {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for FaultCode {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // Any text: a newer program's word must not make its document unreadable.
        String::deserialize(d).map(|word| Self::of(&word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_kebab_case_and_read_back() {
        let mut seen = std::collections::BTreeSet::new();
        for code in FaultCode::ALL {
            let word = code.word();
            assert!(seen.insert(word), "{word} stands twice");
            assert_eq!(FaultCode::of(word), *code);
            let clean = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(word.chars().all(clean), "{word}");
        }
        assert_eq!(FaultCode::of("of-the-future"), FaultCode::Newer);
    }
}
