//! A stack that comes, broken at every point: see [`crate::seam::walk`].

use std::collections::BTreeMap;

use super::*;
use crate::host::ours::paths::WRITTEN_BY_ROOT;
use crate::host::temps;
use crate::seam::walk::{Scenario, files, walk};

/// The first stack of a machine, or (`AFTER`) one in place of another of the same version.
pub(crate) struct Comes<const AFTER: bool>;

pub(crate) struct World {
    node: Node,
    stack: StackRef,
    content: StackManifest,
}

fn staged(node: &Node, addon: &[u8]) -> (StackRef, StackManifest) {
    let mut recipe = recipe("1");
    entry(
        &mut recipe.tar,
        "addons/20-y.yaml",
        tar::EntryType::Regular,
        addon,
    );
    let listed = listed("addons/20-y.yaml", 0o644, addon);
    recipe.manifest.files.push(listed);
    let stack = recipe.stage(node);
    let content = Manifest::open_staged(&node.fs, &stack, &node.trust).expect("manifest");
    (stack, content.content().clone())
}

fn comes(world: &World) -> Result<(), StackError> {
    let World {
        node,
        stack,
        content,
    } = world;
    try_install(node, stack)?;
    activate(&node.fs, stack)?;
    activate_etcd(&node.fs, stack)?;
    keep_on_disk(&node.fs, stack, content)?;
    collect_garbage(&node.fs, std::slice::from_ref(stack)).map(drop)
}

impl<const AFTER: bool> Scenario for Comes<AFTER> {
    const NAME: &'static str = if AFTER {
        "upgrade of a stack"
    } else {
        "first stack"
    };
    type World = World;

    async fn begin(&self) -> World {
        let node = node();
        let world = |addon: &[u8]| {
            let (stack, content) = staged(&node, addon);
            (stack, content)
        };
        let (mut stack, mut content) = world(b"one");
        if AFTER {
            let first = World {
                node,
                stack,
                content,
            };
            comes(&first).expect("the first");
            let (next, listed) = staged(&first.node, b"another");
            (stack, content) = (next, listed);
            // As an earlier try left it that was interrupted.
            let half = first
                .node
                .fs
                .at(incoming_of(&stack))
                .join("addons/20-y.yaml");
            std::fs::create_dir_all(half.parent().expect("directory")).expect("directory");
            std::fs::write(half, "half").expect("write");
            return World {
                node: first.node,
                stack,
                content,
            };
        }
        World {
            node,
            stack,
            content,
        }
    }

    async fn life(&self, world: &mut World, starts: bool) -> bool {
        if starts {
            temps::collect(&world.node.fs, WRITTEN_BY_ROOT);
        }
        comes(world).is_ok()
    }

    async fn end(&self, world: &mut World) -> BTreeMap<String, String> {
        let World { node, stack, .. } = world;
        let fs = &node.fs;
        let whole = verify_installed(fs, stack, &node.trust, Depth::Full).map(drop);
        assert!(whole.is_ok(), "{whole:?}");
        assert_eq!(current(fs).expect("current").as_ref(), Some(&*stack));
        // Signed by another key each time, which names what is staged.
        let mut end = files(fs, |path| path.contains("manifest"));
        end.retain(|path, _| !path.starts_with("/var/"));
        end
    }
}

#[tokio::test]
async fn a_first_stack_broken_anywhere_is_whole() {
    walk(&Comes::<false>, 60).await;
}

#[tokio::test]
async fn a_stack_in_place_of_another_broken_anywhere_is_whole() {
    walk(&Comes::<true>, 60).await;
}
