BB0:
	s_load_b128 s[0:3], s[4:5], 0x10                            ; f4080702 f8000010
	s_cbranch_scc0 BB9                                          ; bfa1004e
BB1:
	s_buffer_load_b32 s10, s[28:31], s10                        ; f420028e 14000000
	s_cmp_ge_u32 s24, s43                                       ; bf092b18
	s_cbranch_scc1 BB9                                          ; bfa20759
BB2:
	s_cmp_ge_i32 s8, s10                                        ; bf030a08
	s_cbranch_scc1 BB8                                          ; bfa20728
BB3:
	buffer_load_b128 v[0:3], v4, s[0:3], 0 offen                ; e05c0000 80000004
	ds_store_b128 v5, v[0:3]                                    ; d87c0000 00000005
	s_cbranch_scc1 BB3                                          ; bfa2fffa
BB4:
	s_clause 0x1                                                ; bf850001
	s_buffer_load_b512 s[44:59], s[28:31], s39                  ; f4300b0e 4e000000
	ds_load_2addr_b64 v[8:11], v5 offset1:1                     ; d9dc0100 08000005
	s_waitcnt lgkmcnt(0)                                        ; bf89fc07
	v_mul_f32_e32 v135, s67, v15                                ; 110e1e43
	s_delay_alu instid0(VALU_DEP_1) | instskip(NEXT) | instid1(VALU_DEP_1) ; bf870091
	v_fmac_f32_e32 v135, s66, v14                               ; 570e1c42
	v_dual_fmac_f32 v0, v1, v2 :: v_dual_mul_f32 v3, v4, v5     ; c8060501 00060b04
	v_exp_f32_e32 v140, v139                                    ; 7f184b8b
	s_cbranch_scc0 BB6                                          ; bfa10295
BB5:
	v_fma_f32 v0, v1, v2, v3                                    ; d6130000 040e0501
	v_pk_fma_f16 v0, v1, v2, v3                                 ; cc0e4000 1c0e0501
	v_fma_mix_f32 v0, v1, v2, v3                                ; cc200000 040e0501
	s_branch BB7                                                ; bfa001be
BB6:
	v_cndmask_b32_e64 v135, v135, v140, s[28:29]                ; d5010087 00731987
	v_fma_f32 v0, v1, v2, v3                                    ; d6130000 040e0501
	s_cbranch_scc1 BB6                                          ; bfa2fffa
BB7:
	s_add_u32 s8, s8, 4                                         ; 80088408
	s_branch BB2                                                ; bfa0f8ce
BB8:
	v_add_f32_e32 v141, v140, v139                              ; 071b178c
	s_branch BB1                                                ; bfa0f89e
BB9:
	buffer_store_b128 v[0:3], v4, s[0:3], 0 offen               ; e0740000 80000004
	s_endpgm                                                    ; bfb00000
