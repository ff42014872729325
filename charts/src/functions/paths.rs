//! Go's `path` functions: paths as text, with `/` between their parts.

use super::{Function, fixed};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "base" | "osBase" => fixed(1, |_, args| Ok(base(&args.text(0)?).into())),
        "dir" | "osDir" => fixed(1, |_, args| {
            let path = args.text(0)?;
            Ok(clean(&path[..path.rfind('/').map_or(0, |at| at + 1)]).into())
        }),
        "clean" | "osClean" => fixed(1, |_, args| Ok(clean(&args.text(0)?).into())),
        "ext" | "osExt" => fixed(1, |_, args| Ok(extension(&args.text(0)?).into())),
        "isAbs" | "osIsAbs" => fixed(1, |_, args| Ok(args.text(0)?.starts_with('/').into())),
        _ => return None,
    })
}

/// The last part.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    match path.trim_end_matches('/') {
        "" => "/",
        path => path.rsplit('/').next().unwrap_or(path),
    }
}

/// With its dot.
fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rfind('.').map_or("", |at| &name[at..])
}

/// The shortest path that means the same.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => (),
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => (),
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}
