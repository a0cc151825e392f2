//! Stacks for these tests: a few files, most of them scripts.

use super::*;
use crate::model::{
    STACK_SCHEMA, StackArchive, StackComponent, StackFile, StackImage, StackManifest, StackRef,
};
use crate::stack;

impl Machine {
    /// Stages the manifest of a stack of these files, whose image is for these roles: what it is called, and its archive.
    pub(super) fn stage_manifest(
        &self,
        version: &str,
        kubernetes: &str,
        files: [(&str, u32, &[u8]); 4],
        roles: &[Role],
    ) -> (StackRef, Vec<u8>) {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(mode);
            tar.append_data(&mut header, path, bytes).expect("append");
        }
        let packed = zstd::encode_all(&*tar.into_inner().expect("tar"), 1).expect("zstd");
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let manifest = StackManifest {
            schema: STACK_SCHEMA,
            name: "pf9-kube".into(),
            version: version.into(),
            kubernetes: kubernetes.parse().expect("version"),
            arch: arch.into(),
            archive: StackArchive {
                sha256: Digest::of(&packed),
                size: packed.len() as u64,
            },
            components: vec![StackComponent {
                name: "containerd".into(),
                version: "2.4.2".into(),
            }],
            files: files
                .map(|(path, mode, bytes)| StackFile {
                    path: path.into(),
                    mode,
                    sha256: Digest::of(bytes),
                    size: bytes.len() as u64,
                    component: "x".into(),
                })
                .into(),
            images: vec![StackImage {
                reference: "pf9.local/pause:3.10.2".into(),
                path: "images/pause.tar".into(),
                component: "pause".into(),
                roles: roles.to_vec(),
            }],
            addons: Vec::new(),
            requires: Vec::new(),
            security: false,
        };
        let payload = serde_json::to_vec(&manifest).expect("json");
        let envelope = self.key.sign(DocumentKind::StackManifest, &payload);
        let envelope = serde_json::to_vec(&envelope).expect("json");
        let want = StackRef {
            name: manifest.name,
            version: manifest.version,
            manifest: Digest::of(&payload),
        };
        let at = stack::staged_manifest(&want.manifest);
        let attrs = Attrs::mode(0o644);
        self.fs.write(at, &envelope, &attrs).expect("stage");
        (want, packed)
    }
}
