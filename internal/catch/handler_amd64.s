#include "textflag.h"

// The bits of SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV and SIGSYS.
#define FAULTS ((1<<4)|(1<<5)|(1<<7)|(1<<8)|(1<<11)|(1<<31))

#define SYS_futex 202
#define FUTEX_WAKE_PRIVATE (1|128)

DATA ·handlerAddr(SB)/8, $handler<>(SB)
GLOBL ·handlerAddr(SB), NOPTR, $8

// The kernel calls it as C: handler(signal DI, siginfo *SI, ucontext *DX), on
// the thread's signal stack and with all signals blocked.
TEXT handler<>(SB), NOSPLIT|NOFRAME, $0
	MOVL	8(SI), AX		// si_code
	CMPL	AX, $0
	JGT	kernel			// not sent by a process
	JNE	note			// sigqueue, tgkill
	MOVL	16(SI), AX		// si_pid, of SI_USER
	CMPL	AX, ·self(SB)
	JEQ	done			// raised by a write of our own

note:
	MOVL	DI, CX
	DECL	CX
	MOVL	$1, AX
	SHLQ	CX, AX
	LOCK
	ORQ	AX, ·pending(SB)
	LOCK
	INCL	·arrivals(SB)
	MOVL	$SYS_futex, AX
	LEAQ	·arrivals(SB), DI
	MOVL	$FUTEX_WAKE_PRIVATE, SI
	MOVL	$1, DX
	SYSCALL

done:
	RET

kernel:
	MOVL	$FAULTS, AX
	BTQ	DI, AX
	JCC	note
	MOVQ	·runtimeHandler(SB), AX
	JMP	AX
