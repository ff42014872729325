//! What the language has and this version does not build. Nothing of it is left out in silence: a
//! file that asks for it is refused before anything runs.

use crate::kubefile::{Instruction, Security};

/// What of an instruction is not built, if anything is.
pub(super) fn unsupported(instruction: &Instruction) -> Option<String> {
    match instruction {
        Instruction::Run(run) if run.security == Security::Insecure => {
            Some("RUN --security=insecure".to_owned())
        }
        Instruction::Add(_)
        | Instruction::App(_)
        | Instruction::AppCmds(_)
        | Instruction::AppEnv(_)
        | Instruction::Arg(_)
        | Instruction::Cmd(_)
        | Instruction::Cmds(_)
        | Instruction::Cni(_)
        | Instruction::Csi(_)
        | Instruction::KubeVersion(_)
        | Instruction::Launch(_)
        | Instruction::Copy(_)
        | Instruction::Entrypoint(_)
        | Instruction::Env(_)
        | Instruction::Expose(_)
        | Instruction::From(_)
        | Instruction::Healthcheck(_)
        | Instruction::Label(_)
        | Instruction::Maintainer(_)
        | Instruction::Onbuild(_)
        | Instruction::Run(_)
        | Instruction::Shell(_)
        | Instruction::StopSignal(_)
        | Instruction::User(_)
        | Instruction::Volume(_)
        | Instruction::Workdir(_) => None,
    }
}
