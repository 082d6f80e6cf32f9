//! `HF-MOUNT-…`: showing snapshots as a file system.

use crate::cli::explain::explanations;

explanations! {
    POINT: "HF-MOUNT-001", Usage, "the mount point cannot be used",
"It must be a folder that exists and is empty: what is in a folder cannot be seen while something
is mounted over it. A mount whose process was killed stays as a folder that nobody can enter.

What to do: make an empty folder, or name another. `umount FOLDER` clears what a killed process has
left.";
    OWN_REPOSITORY: "HF-MOUNT-002", Usage, "the mount point is in, at or above the repository",
"What is mounted over a folder hides it, the repository too, and then nothing can be read any more;
a mount inside of a repository would look like a part of it.

What to do: mount somewhere else.";
    NO_FUSE: "HF-MOUNT-003", Failed, "this host does not let us mount",
"Mounting takes the FUSE module of the kernel, its device /dev/fuse, and the right to use it: root,
or the program fusermount3 for everybody else. Containers often have none of them.

What to do: run it as root, or install fuse3; in a container pass the device /dev/fuse and the right
to mount. Where that cannot be had, `holdfast serve webdav` shows the same files without FUSE.";
    LISTEN: "HF-MOUNT-004", Failed, "the address cannot be listened on",
"Another program listens there already, the address is none of this host, or the port needs root.

What to do: choose another with --listen; port 0 takes a free one.";
    REMOTE: "HF-MOUNT-005", Usage, "other hosts would reach the files",
"Whoever reaches the address can read all snapshots: there is no password and no encryption. So
only loopback addresses are taken unless you say otherwise.

What to do: keep to 127.0.0.1 and go there through ssh -L; or give --allow-remote, on a network
where everybody may read everything.";
}
