//! Kubernetes itself: the stack as it is imported, fetched, unpacked and kept.

rows! {
    Stack: "the stack could not be unpacked or made active",
        "no room, a disk that fails, or an archive that is damaged",
        "`df -h /opt/pf9`, `journalctl -n 50 -u pf9-nodeletd`; it is retried automatically";
    StackIo: "the stack cannot be read from or written to the disk",
        "the disk with /opt/pf9 or /var/opt/pf9 is full, read-only or failing",
        "`df -h /opt/pf9 /var/opt/pf9`, `dmesg`; it is retried automatically";
    StackFetch: "the stack could not be fetched from the plane",
        "the tunnel broke, or the plane does not serve it",
        "nothing: the received part is kept, and the rest is fetched again; `pf9ctl tunnel status` if it never ends";
    StackNotStaged: "the stack is not on this host's disk yet",
        "it is being fetched, or was removed",
        "nothing: it is fetched from the plane";
    StackDamaged: "the stack's archive does not match its manifest",
        "damage on the way or on a disk",
        "nothing at first: it is fetched again. If it persists: build the stack again and `pf9-plane stack import DIR`";
    StackOtherManifest: "the manifest on this host is of another stack",
        "two downloads were interrupted",
        "nothing: the right one is fetched again";
    StackManifestInvalid: "the stack's manifest cannot be used",
        "the stack was built wrongly, or by a newer builder",
        "build the stack again, then `pf9-plane stack import DIR`";
    StackArchiveWrong: "the stack is not imported: its archive does not have the size or content in its manifest",
        "a truncated copy, or files of two builds in one directory",
        "copy both files again, then `pf9-plane stack import DIR`";
    StackUnreadable: "the stack's directory or its files cannot be read by the plane",
        "a wrong path, or files that the plane's user may not read",
        "`ls -l` the directory; it holds stack.tar.zst and manifest.json";
    StackUnwritable: "the plane cannot keep what was imported",
        "its state directory is read-only, or belongs to another user",
        "look at the state directory of the plane; then import again";
    StackVersionTaken: "another stack of this version was imported already",
        "the stack was built again without a new version",
        "a version has one content: build it with a new version";
    StackUnknown: "the plane has no such stack",
        "none was imported yet, the version is mistyped, or none follows the present one",
        "`pf9-plane stack list`; `pf9-plane stack import DIR`";
    StackOtherArch: "the stack is built for another processor than this machine's",
        "a cluster of mixed machines with one stack",
        "give this host a stack of its architecture";
    StackUnfit: "the stack does not fit this machine, or two of its parts do not fit each other",
        "the table of what was tested refuses it: a kernel, a distribution, a step of containerd",
        "the message names the rule and the remedy: another stack, one in between, or a newer machine";
    StackUntried: "the stack was never tested on a machine like this one",
        "a newer kernel or distribution than in the table",
        "nothing; watch it, or use one from the README's table";
    StackDrifted: "installed files of the stack were changed",
        "files below /opt/pf9/stacks were changed or removed, or a disk failed",
        "nothing: it is installed again; find out what writes there if it comes back";
    StackProgram: "a program of the stack does not run on this machine, so the stack is refused",
        "the C library is too old, or the file is for another processor",
        "the message names the program; use a stack that is built for this distribution";
    DigestInvalid: "this is not a digest",
        "a SHA-256 has 64 hexadecimal digits",
        "copy it from `pf9-plane stack list`";
}
