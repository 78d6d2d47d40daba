#include "textflag.h"

// The bits of SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV and SIGSYS.
#define FAULTS ((1<<4)|(1<<5)|(1<<7)|(1<<8)|(1<<11)|(1<<31))

#define SYS_futex 98
#define FUTEX_WAKE_PRIVATE (1|128)

DATA ·handlerAddr(SB)/8, $handler<>(SB)
GLOBL ·handlerAddr(SB), NOPTR, $8

// The kernel calls it as C: handler(signal R0, siginfo *R1, ucontext *R2), on
// the thread's signal stack and with all signals blocked.
TEXT handler<>(SB), NOSPLIT|NOFRAME, $0
	MOVW	8(R1), R3		// si_code
	CMPW	$0, R3
	BGT	kernel			// not sent by a process
	BNE	note			// sigqueue, tgkill
	MOVWU	16(R1), R3		// si_pid, of SI_USER
	MOVWU	·self(SB), R4
	CMPW	R3, R4
	BEQ	done			// raised by a write of our own

note:
	SUB	$1, R0
	MOVD	$1, R3
	LSL	R0, R3
	MOVD	$·pending(SB), R4
set:
	LDAXR	(R4), R5
	ORR	R3, R5
	STLXR	R5, (R4), R6
	CBNZW	R6, set
	MOVD	$·arrivals(SB), R0
count:
	LDAXRW	(R0), R5
	ADDW	$1, R5
	STLXRW	R5, (R0), R6
	CBNZW	R6, count
	MOVD	$FUTEX_WAKE_PRIVATE, R1
	MOVD	$1, R2
	MOVD	$SYS_futex, R8
	SVC

done:
	RET

kernel:
	MOVD	$FAULTS, R3
	LSR	R0, R3
	TBZ	$0, R3, note
	MOVD	·runtimeHandler(SB), R3
	JMP	(R3)
