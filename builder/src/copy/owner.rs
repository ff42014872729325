//! `--chown=USER[:GROUP]`: names are looked up in the image's own `/etc/passwd` and `/etc/group`.

use kfs_fs::error::PathError;

/// Numeric owner and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Why an owner cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// It names neither a user nor a group.
    #[error("{0:?} is no owner: write USER or USER:GROUP")]
    Malformed(String),
    /// No such name in the image.
    #[error("the image's {file} has no {name:?}; use a number or add the name first")]
    Unknown {
        /// The file that was searched.
        file: &'static str,
        /// The name that was searched for.
        name: String,
    },
    /// The image cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Reads a file of the image (no leading slash); none if there is none.
pub type ReadFile<'a> = dyn FnMut(&str) -> Result<Option<Vec<u8>>, PathError> + 'a;

impl Owner {
    /// Root, COPY's default.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    /// The owner that `USER[:GROUP]` names. Without a group it is the user's own from the image's
    /// `/etc/passwd`, or the user's number if the user is a number (Dockerfile reference, COPY).
    /// `USER:` is as `USER`, and `:GROUP` as `0:GROUP`.
    pub fn resolve(text: &str, read: &mut ReadFile<'_>) -> Result<Self, OwnerError> {
        let (user, group) = match text.split_once(':').unwrap_or((text, "")) {
            ("", "") => return Err(OwnerError::Malformed(text.to_owned())),
            ("", group) => ("0", Some(group)),
            (user, "") => (user, None),
            (user, group) => (user, Some(group)),
        };
        let (uid, own_gid) = match user.parse::<u32>() {
            Ok(uid) => (uid, uid),
            Err(_) => {
                let [uid, gid] = lookup(read, "etc/passwd", user)?;
                (uid, gid)
            }
        };
        let gid = match group {
            None => own_gid,
            Some(group) => match group.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => lookup::<1>(read, "etc/group", group)?[0],
            },
        };
        Ok(Self { uid, gid })
    }
}

/// The numbers after `name:password:` in a file of the form of passwd(5) and group(5). Lines that
/// do not have that form are passed over, as the C library does.
fn lookup<const N: usize>(
    read: &mut ReadFile<'_>,
    file: &'static str,
    name: &str,
) -> Result<[u32; N], OwnerError> {
    let bytes = read(file)?.unwrap_or_default();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            continue;
        }
        let numbers: Vec<u32> =
            fields.skip(1).take(N).map_while(|field| field.parse().ok()).collect();
        if let Ok(numbers) = numbers.try_into() {
            return Ok(numbers);
        }
    }
    Err(OwnerError::Unknown { file, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let mut read = |path: &str| {
            Ok(match path {
                "etc/passwd" => Some(b"bad:x:y\nroot:x:0:0::/:\nweb:x:33:34::/:/bin/sh\n".to_vec()),
                "etc/group" => Some(b"root:x:0:\nstaff:x:50:web\n".to_vec()),
                _ => None,
            })
        };
        let mut owner = |text: &str| Owner::resolve(text, &mut read).map(|o| (o.uid, o.gid));
        for (text, uid, gid) in [
            ("5", 5, 5),
            ("5:6", 5, 6),
            ("web", 33, 34),
            ("web:staff", 33, 50),
            ("web:7", 33, 7),
            ("7:staff", 7, 50),
            ("web:", 33, 34),
            ("5:", 5, 5),
            (":staff", 0, 50),
        ] {
            assert_eq!(owner(text).unwrap(), (uid, gid), "{text}");
        }
        for text in ["nobody", "web:web", "bad", "", ":", "5:x:", "99999999999"] {
            owner(text).expect_err(text);
        }
        Owner::resolve("web", &mut |_| Ok(None)).expect_err("no passwd");
    }
}
