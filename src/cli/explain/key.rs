//! `HF-KEY-…`: passphrases, identities, recipients.

use crate::cli::explain::explanations;

explanations! {
    WRONG: "HF-KEY-001", WrongKey, "no given key opens the repository",
"The passphrase is wrong, or none of the identities belongs to a recipient of the repository.

What to do: `holdfast key list` shows the recipients. Check for a wrong keyboard layout, and for a
line end or a blank in the file. There is no way in without a key: that is the point of it.";
    NONE: "HF-KEY-002", WrongKey, "no passphrase or identity was given",
"Reading back needs one, nothing says where it is, and there is no terminal to ask on.

What to do: give --password-file FILE or --identity-file FILE, or set HOLDFAST_PASSWORD_FILE. Under
systemd: LoadCredential=holdfast-password:/path.";
    FILE_EXPOSED: "HF-KEY-003", Refused, "others can read the secret file",
"A file that holds a secret must belong to you or to root, and only its owner may read it.

What to do: chmod 600 FILE, chown it to yourself; if others may have read it, change the secret.";
    FILE_UNREADABLE: "HF-KEY-004", WrongKey, "the secret cannot be read",
"The file, command or descriptor that should give the secret does not, or gives nothing, or more
than 64 KiB.

What to do: check the name, the permissions, and what the command prints.";
    MISMATCH: "HF-KEY-005", Usage, "the two passphrases differ",
"A new passphrase is asked for twice, so that no typing error locks you out.

What to do: try again.";
    RECIPIENT: "HF-KEY-006", Usage, "not a recipient",
"A recipient is an age public key (age1…), a line of an SSH public key (ssh-ed25519 or ssh-rsa), or
that of an age plugin (age1yubikey1…). A secret key is not.

What to do: `age-keygen -y FILE` prints the recipient of an identity.";
    LAST: "HF-KEY-007", Refused, "the last key is not removed",
"Without any key file no one could ever read the repository again.

What to do: add another one first with `holdfast key add`.";
    IDENTITY: "HF-KEY-008", WrongKey, "the identity file is not understood",
"It should hold an age identity (AGE-SECRET-KEY-1…), that of a plugin, or an SSH private key.

What to do: check that it is the private file, not the public one.";
    WEAK: "HF-KEY-009", Usage, "the passphrase is too short",
"Whoever gets a copy of the repository can try passphrases at leisure.

What to do: take at least 12 characters; four or five random words are good.";
    PLUGIN: "HF-KEY-010", WrongKey, "the age plugin failed",
"The program age-plugin-NAME is not in PATH, or reported an error.

What to do: install it, plug the device in, and look at its message above.";
    NO_ROOT: "HF-KEY-011", WrongKey, "the root key is needed",
"Writers and epochs are listed in the roster, which only the root key signs. The key given opens the
repository for reading, but its key file does not hold the root key.

What to do: give the passphrase or identity of a key file that does.";
    NOT_FOUND: "HF-KEY-012", Usage, "no such key file",
"No key file has an id that begins with these digits, or several have.

What to do: `holdfast key list` shows the ids.";
}
